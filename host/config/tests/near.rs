//! Regions of clients, and the order of zones.

use super::{LISTENING, SERVED, check_refusal, valid};

#[test]
fn what_is_wrong_with_regions_and_zones_is_named_where_it_stands() {
    let region = "[region]\nname = \"eu\"\n";
    let zones = |line: &str| {
        let endpoints = "endpoints = [\"http://a\", { url = \"http://b\", zone = \"us\" }]";
        format!("{LISTENING}[pool.web]\n{endpoints}\n{line}")
    };
    let table: [(String, &[&str]); 7] = [
        (format!("{region}client_field = \"a b\" # !\n{SERVED}"), &["\"a b\" is no header's name"]),
        (format!("{region}client_field = \"x_geo\" # !\n{SERVED}"), &["`x_geo` can't state the region", "without `_`"]),
        (
            format!("[[route]]\nname = \"a\"\npool = \"web\"\nkey_client_region = true # !\n{SERVED}"),
            &["nothing states the region of a client", "`client_field`"],
        ),
        (
            format!("{region}[[route]]\nname = \"a\"\npool = \"web\"\nkey_client_region = true # !\n{SERVED}"),
            &["nothing states the region of a client"],
        ),
        (zones("zones = [\"su\"] # !"), &["no endpoint of the pool is in the zone `su`", "did you mean `us`?"]),
        (zones("zones = [\"us\", \"us\"] # !"), &["the zone `us` is named twice"]),
        (
            format!("{LISTENING}[pool.web]\nendpoints = [\"http://a\"]\nzones = [\"us\"] # !"),
            &["no endpoint of the pool has a `zone`"],
        ),
    ];
    for (text, phrases) in table {
        check_refusal(&text, phrases);
    }
}

#[test]
fn a_region_states_its_field_and_a_pool_its_zones() {
    let text = "[region]\nname = \"eu\"\nclient_field = \"X-Geo\"\n[[route]]\nname = \"a\"\npool = \"web\"\n\
                key_client_region = true\n";
    let config = valid(&format!("{text}{SERVED}"));
    let region = config.region.unwrap();
    assert_eq!((region.name.as_str(), region.client_field.as_ref().map(|field| field.as_str())), ("eu", Some("x-geo")));
    assert!(config.routes[0].key_client_region);
    let endpoints = "endpoints = [{ url = \"http://a\", zone = \"b\" }, { url = \"http://c\", zone = \"a\" }]";
    let pool = valid(&format!("{LISTENING}[pool.web]\n{endpoints}\nzones = [\"a\", \"b\"]")).pools["web"].clone();
    assert_eq!((pool.zone, pool.zones), (None, vec!["a".to_owned(), "b".to_owned()]));
}
