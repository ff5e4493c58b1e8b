//! Files that change while a node runs, with the databases of the system tests.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

const LOOK: Duration = Duration::from_millis(10);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/geo").join(name)
}

fn city(geo: &ThreadGeo) -> Option<String> {
    geo.place("127.0.1.1".parse().unwrap()).city.as_deref().map(str::to_owned)
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let done = async {
        while !done() {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), done).await.expect(what);
}

#[tokio::test]
async fn a_changed_file_is_used_and_a_broken_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("city.mmdb");
    std::fs::copy(fixture("city.mmdb"), &path).unwrap();
    let watch = GeoWatch::start_looking(std::slice::from_ref(&path), LOOK).await.unwrap();
    let geo = Arc::new(Geo::new(&GeoConfig::default()).unwrap());
    let mut files = watch.files.clone();
    geo.take(&files.borrow_and_update()).unwrap();
    let thread = ThreadGeo::new(geo.clone());
    assert_eq!(city(&thread).as_deref(), Some("Berlin"));
    assert_eq!(city(&thread).as_deref(), Some("Berlin"), "it is remembered");

    // Half a file, then none, then the next edition, as a rename puts it there.
    let whole = std::fs::read(fixture("city-next.mmdb")).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    tokio::time::sleep(LOOK * 10).await;
    std::fs::remove_file(&path).unwrap();
    tokio::time::sleep(LOOK * 10).await;
    assert!(!files.has_changed().unwrap());
    let next = dir.path().join("next");
    std::fs::write(&next, &whole).unwrap();
    std::fs::rename(&next, &path).unwrap();
    until("the next edition is read", || files.has_changed().unwrap()).await;
    geo.take(&files.borrow_and_update()).unwrap();
    assert_eq!(city(&thread).as_deref(), Some("Paris"));
}

#[tokio::test]
async fn a_node_does_not_start_with_a_file_that_is_no_database() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("not.mmdb");
    let refused = |why: &'static str| {
        let path = path.clone();
        async move {
            let Err(error) = GeoWatch::start(std::slice::from_ref(&path)).await else {
                panic!("it is read")
            };
            let error = error.to_string();
            assert!(error.contains("not.mmdb (geo.database)") && error.contains(why), "{error}");
        }
    };
    refused("No such file").await;
    std::fs::write(&path, "<html>").unwrap();
    refused("no intact database").await;
    std::fs::write(&path, "").unwrap();
    refused("no intact database").await;
}

#[tokio::test]
async fn processes_get_the_memory_over_a_link() {
    let watch = GeoWatch::start(&[fixture("city.mmdb")]).await.unwrap();
    let geo = Arc::new(Geo::new(&GeoConfig::default()).unwrap());
    let link = crate::process::geo::serve(watch.files.clone()).unwrap();
    crate::process::geo::follow(link, geo.clone()).await.unwrap();
    assert_eq!(city(&ThreadGeo::new(geo)).as_deref(), Some("Berlin"));
}
