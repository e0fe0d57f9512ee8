//! What the signed program may do beyond the hardened runtime: nothing. Why it needs nothing is told in `scripts/sign`;
//! whoever adds an entitlement adds it here with its reason.

use std::path::Path;

/// Entitlements that may be asked for.
const ALLOWED: [&str; 0] = [];
/// What stands before the list.
const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
    <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
    <plist version=\"1.0\">\n";
/// What stands behind it.
const TAIL: &str = "</plist>\n";

/// Everything that is wrong with a file of entitlements.
fn judge(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let Some(list) = text.strip_prefix(HEAD).and_then(|text| text.strip_suffix(TAIL)) else {
        return vec!["it is no property list in the form that is expected here".to_owned()];
    };
    let list = list.trim();
    let one = list == "<dict/>" || (list.starts_with("<dict>") && list.ends_with("</dict>"));
    if !one {
        found.push("it is not one dictionary".to_owned());
    }
    // Unlike every other parser, the one of macOS's file integrity service (AMFI) refuses comments.
    if list.contains("<!--") {
        found.push("it has a comment".to_owned());
    }
    let keys = list.split("<key>").skip(1).map(|rest| rest.split("</key>").next().unwrap_or_default().trim());
    found.extend(keys.filter(|key| !ALLOWED.contains(key)).map(|key| format!("{key} is not allowed")));
    found
}

#[test]
fn i6_the_entitlements_ask_for_nothing_beyond_the_hardened_runtime() {
    let root = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo and nextest set it for a running test");
    let read = |name: &str| std::fs::read_to_string(Path::new(&root).join(name)).expect("it is part of the tree");
    assert_eq!(judge(&read("launchd/entitlements.plist")), Vec::<String>::new());
    let script = read("scripts/sign");
    assert!(script.contains("--options runtime") && script.contains("--entitlements launchd/entitlements.plist"));
}

#[test]
fn an_entitlement_that_opens_a_door_is_rejected() {
    let with = |list: &str| judge(&format!("{HEAD}{list}\n{TAIL}"));
    for name in [
        "com.apple.security.cs.disable-library-validation",
        "com.apple.security.cs.allow-dyld-environment-variables",
        "com.apple.security.cs.allow-jit",
        "com.apple.security.get-task-allow",
    ] {
        assert_eq!(with(&format!("<dict><key>{name}</key><true/></dict>")), [format!("{name} is not allowed")]);
    }
    assert_eq!(with("<dict/>"), Vec::<String>::new());
    assert_eq!(with("<dict><!-- why --></dict>"), ["it has a comment"]);
    assert_eq!(with("<array/>"), ["it is not one dictionary"]);
    assert_eq!(judge("<plist>").len(), 1);
}
