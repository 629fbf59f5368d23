//! What is announced to other regions.

use super::*;

#[test]
fn wrong_announcements_are_named_where_they_stand() {
    let (own, far) = ("name = \"a\"\npool = \"web\"", "[pool.us]\nendpoints = [\"http://127.0.0.1:9001\"]\n");
    let many = format!("replicate = {{ tags = [{}], to = [\"us\"] }} # !", vec!["\"a\""; 65].join(", "));
    let table: [(&str, &[&str]); 11] = [
        ("replicate = { tags = [\"hot\"] } # !", &["the key `to` is missing"]),
        ("replicate = { to = [\"us\"] } # !", &["`replicate` chooses nothing", "`prefixes`"]),
        ("replicate = { tags = [\"hot\"], to = [] } # !", &["`replicate` names no pool"]),
        ("replicate = { tags = [\"hot\"], to = [\"uss\"] } # !", &["there is no pool `uss`", "did you mean `us`?"]),
        (
            "replicate = { tags = [\"hot\"], to = [\"web\"] } # !",
            &["nothing is announced to `web`, which is an origin of the route"],
        ),
        ("replicate = { tags = [\" hot\"], to = [\"us\"] } # !", &["\" hot\" is no tag"]),
        ("replicate = { prefixes = [\"assets\"], to = [\"us\"] } # !", &["\"assets\" is no prefix", "begin with `/`"]),
        (
            "replicate = { prefixes = [\"/a/../b\"], to = [\"us\"] } # !",
            &["\"/a/../b\" is no prefix", "it isn't in its normal form"],
        ),
        (many.as_str(), &["`replicate` has at most 64 tags"]),
        (
            "mode = \"infer\"\nprotocol = \"plain\"\nreplicate = { tags = [\"hot\"], to = [\"us\"] } # !",
            &["only a route of `mode = \"http\"` has `replicate`"],
        ),
        ("replicate = { tag = [\"hot\"], to = [\"us\"] } # !", &["unknown key `tag`", "did you mean `tags`?"]),
    ];
    for (text, phrases) in table {
        check_refusal(&format!("[[route]]\n{own}\n{text}\n{far}{SERVED}"), phrases);
    }
    let whole = "replicate = { tags = [\"hot\"], prefixes = [\"/assets\"], to = [\"us\"] }";
    let route = &valid(&format!("[[route]]\n{own}\n{whole}\n{far}{SERVED}")).routes[0];
    let texts = |text: &str| vec![text.to_owned()];
    let wanted = Replicate { tags: texts("hot"), prefixes: texts("/assets"), to: texts("us") };
    assert_eq!(route.replicate, Some(wanted));
    let respond = "[[route]]\nname = \"a\"\nrespond = {}\nreplicate = { tags = [\"hot\"], to = [\"us\"] } # !";
    check_refusal(&format!("{respond}\n{far}{SERVED}"), &["a route with `redirect` or `respond` has no `replicate`"]);
    check_refusal(&format!("[replicate]\nqueue_max = 0 # !\n{SERVED}"), &["`queue_max` can't be 0"]);
}
