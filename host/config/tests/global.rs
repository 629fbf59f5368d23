//! What the regions share.

use super::*;

#[test]
fn wrong_settings_of_regions_are_named_where_they_stand() {
    let global = "[region]\nname = \"eu\"\n[global]\netcd = [\"http://h:1\"]";
    let table: [(String, &[&str]); 12] = [
        ("[region]\nname = \"e/u\" # !".to_owned(), &["\"e/u\" can't be the name of a region"]),
        ("[region] # !".to_owned(), &["the key `name` is missing"]),
        ("[global]\netcd = [\"http://h:1\"] # !".to_owned(), &["needs the name of this node's region", "`[region]`"]),
        ("[region]\nname = \"a\"\n[global]\netcd = [] # !".to_owned(), &["`etcd` has 0 endpoints", "1 to 16"]),
        (
            "[region]\nname = \"a\"\n[global]\netcd = [\"http://h\"] # !".to_owned(),
            &["without a host and a port can't be an endpoint of etcd", "`http://host:2379`"],
        ),
        (
            "[region]\nname = \"a\"\n[global]\netcd = [\"http://h:1\", \"http://h:1\"] # !".to_owned(),
            &["`http://h:1` is named twice"],
        ),
        (format!("{global}\npassword = \"p\" # !"), &["a password needs its user"]),
        (format!("{global}\nca_file = \"ca.pem\" # !"), &["needs an endpoint with TLS"]),
        (
            "[region]\nname = \"a\"\n[global]\netcd = [\"https://h:1\"]\ncert_file = \"c.pem\" # !".to_owned(),
            &["`cert_file` needs `key_file`"],
        ),
        (format!("{global}\ntimeout_ms = 49 # !"), &["`timeout_ms` can't be 49 ms", "50 ms to"]),
        (
            format!("{global}\npurge.invalidations_max = 1 # !"),
            &["unknown key `invalidations_max`", "the keys here are"],
        ),
        (
            format!("{global}\npurge = {{ fence_ms = 10_000, lost_ms = 19_999 }} # !"),
            &["less than two times `fence_ms`", "20000 or more"],
        ),
    ];
    for (text, phrases) in table {
        check_refusal(&format!("{text}\n{SERVED}"), phrases);
    }
    let config = valid(&format!("{global}\npurge.fence_ms = 500\n{SERVED}"));
    let purge = config.global.expect("what regions share").purge;
    assert_eq!((purge.fence.as_millis(), purge.ack.as_millis()), (500, 12_000), "the rest is as by default");
}
