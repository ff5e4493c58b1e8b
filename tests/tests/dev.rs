//! The promise: `atoll dev` serves a project from its sources, takes up every save, shows console
//! output as it happens, and keeps state between its runs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::Ipv4Addr;

use atoll_tests::{DevSession, Origin, Project, eventually};

const GREETING: &str = "src/greeting.ts";

fn greeting(text: &str) -> String {
    format!("export const greeting: string = \"{text}\";\n")
}

async fn answers(dev: &DevSession, expected: &str) {
    eventually(&format!("the worker answers {expected:?}"), async || {
        let reply = dev.request("/").send().await.ok()?;
        (reply.status == 200 && reply.text() == expected).then_some(())
    })
    .await;
}

async fn prints(dev: &DevSession, expected: &str) {
    eventually(&format!("the command prints {expected:?}"), async || {
        dev.output().contains(expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_save_is_served_and_a_broken_one_leaves_the_last_good_version() {
    let project = Project::copy("dev");
    let mut dev = DevSession::start(&project).await;
    answers(&dev, "one").await;
    prints(&dev, "asked for /").await;
    project.write(GREETING, &greeting("two"));
    answers(&dev, "two").await;
    project.write(GREETING, "export const greeting: string = ;\n");
    prints(&dev, "greeting.ts:1").await;
    answers(&dev, "two").await;
    project.write(GREETING, &greeting("three"));
    answers(&dev, "three").await;
    assert_eq!(dev.interrupt().await.code(), Some(0));
}

#[tokio::test]
async fn state_is_kept_between_runs() {
    let project = Project::copy("dev");
    let mut dev = DevSession::start(&project).await;
    assert_eq!(dev.request("/visit").send().await.unwrap().status, 200);
    assert_eq!(dev.interrupt().await.code(), Some(0));
    let mut dev = DevSession::start(&project).await;
    assert_eq!(dev.request("/visited").send().await.unwrap().text(), "yes");
    assert_eq!(dev.interrupt().await.code(), Some(0));
}

/// A server on the developer's machine is in reach, by its address and by a pool; `atoll serve` refuses both.
#[tokio::test]
async fn servers_on_the_same_machine_are_in_reach() {
    let origin = Origin::answering(Ipv4Addr::LOCALHOST.into(), "from upstream").await;
    let project = Project::copy("dev");
    project.write(
        "src/index.ts",
        &format!(
            "export default {{ fetch: (request: Request) => \
               fetch(request.url.endsWith(\"/pool\") ? \"https://api.example.com/\" : {:?}) }};\n",
            origin.url()
        ),
    );
    let config = std::fs::read_to_string(project.path().join("wrangler.toml")).unwrap();
    let address = origin.address();
    let pool = format!(
        "\n[[atoll.pools]]\nhost = \"api.example.com\"\norigins = [{{ address = \"http://{address}\" }}]\n"
    );
    project.write("wrangler.toml", &(config + &pool));
    let mut dev = DevSession::start(&project).await;
    answers(&dev, "from upstream").await;
    assert_eq!(dev.request("/pool").send().await.unwrap().text(), "from upstream");
    assert_eq!(dev.interrupt().await.code(), Some(0));
}
