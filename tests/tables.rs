//! Tables and descriptions for people: as they look, in lines of 80 characters.

use portslice::stats::table::{Cut, described, fitted};

const HEADING: [&str; 6] = ["CONTAINER", "NAME", "ENGINE", "BLOCK", "PORTS", "STAGE"];
const FLEXIBLE: [(usize, Cut); 3] = [(0, Cut::Back), (1, Cut::Front), (4, Cut::Back)];

fn rows(rows: &[[&str; 6]]) -> Vec<Vec<String>> {
    rows.iter().map(|row| row.map(String::from).to_vec()).collect()
}

#[test]
fn what_fits_is_left_as_it_is() {
    let table = fitted(
        &HEADING,
        &rows(&[
            ["c1", "-", "-", "32768-33791", "31000", "attached"],
            ["c2", "web", "podman", "33792-34815", "-", "GONE"],
        ]),
        &[],
        &FLEXIBLE,
    );
    let expected = "\
CONTAINER  NAME  ENGINE  BLOCK        PORTS  STAGE
c1         -     -       32768-33791  31000  attached
c2         web   podman  33792-34815  -      GONE
";
    assert_eq!(table, expected);
}

#[test]
fn the_widest_columns_give_way() {
    let pod = "production/shop-7d4b9c6f5-x2x9k/frontend";
    let table = fitted(
        &HEADING,
        &rows(&[
            ["ccb36ba720b9", pod, "containerd", "32768-33791", "31000-31009,31100,31200-31299,31500", "attached"],
            ["4f1dccb36ba7", "prod/db", "containerd", "33792-34815", "31001", "detaching"],
            ["4f1dccb36ba8", "\"", "podman", "\"", "-", "\""],
        ]),
        &[],
        &FLEXIBLE,
    );
    let expected = "\
CONTAINER     NAME            ENGINE      BLOCK        PORTS           STAGE
ccb36ba720b9  ...9k/frontend  containerd  32768-33791  31000-31009...  attached
4f1dccb36ba7  prod/db         containerd  33792-34815  31001           detaching
4f1dccb36ba8  \"               podman      \"            -               \"
";
    assert_eq!(table, expected);
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
}

#[test]
fn a_description_is_broken_between_words() {
    let text = described(&[
        ("container", "web".into()),
        (
            "dropped",
            "source_port 12, source_address 1, not_ip 4000000, too_short 17, fragment 3, egress_limit 99; more".into(),
        ),
        ("namespace", format!("/run/{}", "x".repeat(90))),
        ("ports", "-".into()),
    ]);
    let expected = format!(
        "\
container      web
dropped        source_port 12, source_address 1, not_ip 4000000, too_short 17,
               fragment 3, egress_limit 99;
               more
namespace      /run/{}
ports          -
",
        "x".repeat(90)
    );
    assert_eq!(text, expected);
}
