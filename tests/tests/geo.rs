//! The promise: a worker learns where its client is, from databases and networks that the operator names, and
//! no client can say otherwise.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::time::Duration;

use atoll_router::GeoTable;
use atoll_tests::{
    Node, NodeOptions, Protocol, Script, country_database, eventually, fixture_path,
};
use serde_json::{Value, json};

/// Tells all that a worker may know of its client.
const TELL: &str = "export default { fetch: (request) => Response.json({ \
    cf: request.cf, headers: Object.fromEntries(request.headers) }) };";

/// Networks of the configuration; the smaller ones have the larger one's addresses.
const NETWORKS: &str = r#"
[[geo.networks]]
cidr = "127.0.0.0/16"
country = "CH"
city = "Zürich"
asn = 64510

[[geo.networks]]
cidr = "127.0.9.0/24"
country = "at"
region = "Wien"
region_code = "9"
latitude = 48.2
longitude = 16.37
timezone = "Europe/Vienna"

[[geo.networks]]
cidr = "127.0.9.9"
country = "NZ"
"#;

fn options(database: &std::path::Path, networks: &str) -> NodeOptions {
    let colo = "colo = \"TST\"\nlocation_headers = true";
    let config =
        format!("[geo]\ndatabase = [{:?}]\n{colo}\n{networks}", database.to_str().unwrap());
    NodeOptions { processes: Some(2), ..NodeOptions::with_config(&config) }
}

fn local(address: &str) -> IpAddr {
    address.parse().unwrap()
}

async fn told(node: &Node, from: &str) -> Value {
    node.request("tell", "/").from(local(from)).send().await.unwrap().json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_city_database_fills_request_cf() {
    let node = Node::start(options(&fixture_path("geo/city.mmdb"), "")).await;
    node.deploy("tell", &Script::module(TELL)).await;
    let check = async |from: &str, expected: Value| {
        let told = told(&node, from).await;
        let mut found = told["cf"].as_object().unwrap().clone();
        for transport in ["httpProtocol", "tlsVersion", "tlsCipher"] {
            assert!(found.remove(transport).is_some_and(|value| value.is_string()), "{transport}");
        }
        assert_eq!(found.remove("colo"), Some(json!("TST")));
        assert_eq!(Value::from(found), expected, "{from}");
        let country = expected["country"].as_str().unwrap_or("XX");
        let headers = &told["headers"];
        assert_eq!(headers["cf-ipcountry"], country);
        assert_eq!(headers["cf-connecting-ip"], from);
        assert_eq!(headers["cf-visitor"], r#"{"scheme":"http"}"#);
        assert_eq!(headers["cf-iplatitude"], expected["latitude"]);
        assert!(headers["cf-ray"].as_str().unwrap().ends_with("-TST"));
    };
    let berlin = json!({
        "country": "DE", "isEUCountry": "1", "continent": "EU", "region": "Land Berlin",
        "regionCode": "BE", "city": "Berlin", "postalCode": "10115", "latitude": "52.52440",
        "longitude": "13.41050", "timezone": "Europe/Berlin", "asn": 64_501,
        "asOrganization": "Example Spree",
    });
    check("127.0.1.1", berlin.clone()).await;
    check("127.0.1.254", berlin).await;
    check(
        "127.0.2.1",
        json!({
            "country": "US", "continent": "NA", "region": "Texas", "regionCode": "TX",
            "city": "Austin", "postalCode": "78701", "metroCode": "635", "latitude": "30.27130",
            "longitude": "-97.74260", "timezone": "America/Chicago", "asn": 64_502,
            "asOrganization": "Example Hill Country",
        }),
    )
    .await;
    check(
        "127.0.4.1",
        json!({
            "country": "BR", "continent": "SA", "region": "São Paulo", "regionCode": "SP",
            "city": "São Paulo", "postalCode": "01000", "latitude": "-23.53350",
            "longitude": "-46.63590", "timezone": "America/Sao_Paulo", "asn": 64_504,
            "asOrganization": "Exemplo Tietê",
        }),
    )
    .await;
    check("127.0.77.1", json!({})).await;
    // The same over the other protocols.
    for (protocol, name) in
        [(Protocol::Http2, "HTTP/2"), (Protocol::Https1, "HTTP/1.1"), (Protocol::Https2, "HTTP/2")]
    {
        let request = node.request("tell", "/").from(local("127.0.5.9")).over(protocol);
        let told = request.send().await.unwrap().json();
        assert_eq!(
            (&told["cf"]["city"], &told["cf"]["httpProtocol"]),
            (&json!("London"), &json!(name))
        );
        let scheme = if protocol == Protocol::Http2 { "http" } else { "https" };
        assert_eq!(told["headers"]["cf-visitor"], json!({ "scheme": scheme }).to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networks_of_the_configuration_win_and_the_smallest_of_them() {
    let node = Node::start(options(&fixture_path("geo/city.mmdb"), NETWORKS)).await;
    node.deploy("tell", &Script::module(TELL)).await;
    let check = async |from: &str, expected: Value| {
        let cf = told(&node, from).await["cf"].clone();
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&cf[name], value, "{name} of {from}: {cf}");
        }
    };
    check("127.0.0.1", json!({ "country": "CH", "city": "Zürich", "asn": 64_510, "continent": "EU", "isEUCountry": null })).await;
    let vienna = json!({ "country": "AT", "region": "Wien", "regionCode": "9", "latitude": "48.20000", "isEUCountry": "1", "asn": null });
    check("127.0.9.1", vienna).await;
    check("127.0.9.9", json!({ "country": "NZ", "region": null, "continent": "OC" })).await;
    // It lies in another place than the database says: nothing of that is taken but the network's owner.
    check("127.0.1.1", json!({ "country": "CH", "region": null, "asn": 64_510 })).await;
    check("127.1.1.1", json!({ "country": null })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spoofed_headers_never_win() {
    let node = Node::start(options(&fixture_path("geo/city.mmdb"), "")).await;
    node.deploy("tell", &Script::module(TELL)).await;
    let forged = [
        "CF-Connecting-IP",
        "CF-Connecting-IPv6",
        "CF-IPCountry",
        "CF-IPCity",
        "CF-IPContinent",
        "CF-IPLatitude",
        "CF-IPLongitude",
        "CF-Metro-Code",
        "CF-Postal-Code",
        "CF-Pseudo-IPv4",
        "CF-Ray",
        "CF-Region",
        "CF-Region-Code",
        "CF-Timezone",
        "CF-Visitor",
        "CF-Worker",
        "True-Client-IP",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Real-IP",
    ];
    for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Https1, Protocol::Https2] {
        let mut request = node.request("tell", "/").from(local("127.0.2.1")).over(protocol);
        for name in forged {
            request = request.header(&name.to_ascii_lowercase(), "forged");
            request = request.header(name.to_ascii_lowercase().as_str(), "FORGED");
        }
        let told = request.send().await.unwrap().json();
        let text = told.to_string();
        assert!(!text.to_lowercase().contains("forged"), "{protocol:?}: {text}");
        assert_eq!(told["cf"]["city"], "Austin");
        assert_eq!(told["headers"]["cf-ipcountry"], "US");
        assert_eq!(told["headers"]["cf-ipcity"], "Austin");
    }
}

/// A provider's next edition is put in place while the node runs, and before it a download that broke off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_database_is_in_use_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("city.mmdb");
    std::fs::copy(fixture_path("geo/city.mmdb"), &path).unwrap();
    let node = Node::start(options(&path, "")).await;
    node.deploy("tell", &Script::module(TELL)).await;
    assert_eq!(told(&node, "127.0.1.1").await["cf"]["city"], "Berlin");
    let next = std::fs::read(fixture_path("geo/city-next.mmdb")).unwrap();
    std::fs::write(&path, &next[..next.len() - 9]).unwrap();
    eventually("the node complains", async || {
        node.output().contains("the database that was in use stays in use").then_some(())
    })
    .await;
    assert_eq!(told(&node, "127.0.1.1").await["cf"]["city"], "Berlin");
    std::fs::write(dir.path().join("next"), &next).unwrap();
    std::fs::rename(dir.path().join("next"), &path).unwrap();
    eventually("the next edition is in use", async || {
        (told(&node, "127.0.1.1").await["cf"]["city"] == "Paris").then_some(())
    })
    .await;
    // In every process, also in one that is started later.
    let killed = node.serving_processes().await.unwrap()[0].pid.unwrap();
    node.kill_process(killed, "KILL");
    eventually("it is started again", async || {
        let processes = node.serving_processes().await?;
        let ready =
            processes.iter().all(|process| process.state == "ready" && process.pid != Some(killed));
        ready.then_some(())
    })
    .await;
    for _ in 0..20 {
        assert_eq!(told(&node, "127.0.1.1").await["cf"]["city"], "Paris");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_says_why_it_cannot_use_a_database() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("page.mmdb");
    std::fs::write(&path, "<html>not found</html>").unwrap();
    let refused = Node::refused(options(&path, "")).await;
    assert!(refused.contains("page.mmdb (geo.database): it is no intact database"), "{refused}");
}

/// Addresses of well-known holders, in a free database as it is published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_free_database_from_npm_knows_countries() {
    let path = country_database();
    let table = GeoTable::new(&[], vec![std::fs::read(&path).unwrap().into()]).unwrap();
    let check = |address: &str, country: Option<&str>, continent: Option<&str>, is_eu| {
        let place = table.place(address.parse().unwrap());
        let found = (place.country.as_deref(), place.continent.as_deref(), place.is_eu);
        assert_eq!(found, (country, continent, is_eu), "{address}");
    };
    let eu = |address, country| check(address, Some(country), Some("EU"), Some(true));
    let not_eu =
        |address, country, continent| check(address, Some(country), Some(continent), Some(false));
    eu("141.20.1.1", "DE");
    eu("193.0.6.139", "NL");
    eu("2001:67c:2e8::1", "NL");
    eu("2a00:1450::1", "IE");
    not_eu("8.8.8.8", "US", "NA");
    not_eu("2001:4860:4860::8888", "US", "NA");
    not_eu("::ffff:8.8.8.8", "US", "NA");
    not_eu("128.101.101.101", "US", "NA");
    not_eu("130.59.1.1", "CH", "EU");
    not_eu("131.111.8.46", "GB", "EU");
    not_eu("133.1.1.1", "JP", "AS");
    not_eu("137.132.1.1", "SG", "AS");
    not_eu("146.164.1.1", "BR", "SA");
    not_eu("155.232.1.1", "ZA", "AF");
    not_eu("202.12.29.1", "AU", "OC");
    check("10.0.0.1", None, None, None);
    check("192.0.2.1", None, None, None);
    check("::1", None, None, None);
    // The binary takes it, whole.
    let begun = std::time::Instant::now();
    let node = Node::start(options(&path, NETWORKS)).await;
    assert!(begun.elapsed() < Duration::from_secs(60));
    node.deploy("tell", &Script::module(TELL)).await;
    assert_eq!(told(&node, "127.0.9.9").await["cf"]["country"], "NZ");
}
