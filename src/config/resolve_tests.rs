//! Resolving as data: sources in, settings or mistakes out.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::config::args::Flags;
use crate::config::show;

/// A root of its own, a file if there is one, and a resolver that knows three names.
struct Desk {
    folder: tempfile::TempDir,
    flags: Flags,
    variables: BTreeMap<String, String>,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Self { folder, flags: Flags::default(), variables: BTreeMap::new() }
    }

    fn flag(mut self, key: &'static str, text: &str) -> Self {
        self.flags = self.flags.with(key, text);
        self
    }

    fn variable(mut self, name: &str, text: &str) -> Self {
        self.variables.insert(name.to_owned(), text.to_owned());
        self
    }

    fn file(self, text: &str) -> Self {
        self.put("config.toml", text, 0o600);
        self
    }

    fn put(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn resolve(&self) -> Result<Resolved, Mistakes> {
        let mut flags = self.flags.clone();
        if flags.texts("home").is_none() && !self.variables.contains_key("SANCTUM_MLX_HOME") {
            flags = flags.with("home", self.folder.path().to_str().unwrap());
        }
        let variables = self.variables.clone();
        resolve(&Sources { flags: &flags, variables, user_home: Some("/home/u".into()), lookup: &lookup })
    }

    /// The report, with the folder's changing name replaced.
    fn report(&self) -> String {
        let report = self.resolve().expect_err("this is wrong").to_string();
        report.replace(self.folder.path().to_str().unwrap(), "HOME")
    }
}

fn lookup(host: &str) -> io::Result<Vec<IpAddr>> {
    match host {
        "localhost" => Ok(vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()]),
        "mac.local" => Ok(vec!["192.168.7.7".parse().unwrap()]),
        "empty" => Ok(vec![]),
        _ => Err(io::Error::other("no such name")),
    }
}

#[test]
fn nothing_given_resolves_to_the_documented_defaults() {
    let Settings { times, limits, listen, model, .. } = Desk::new().resolve().unwrap().settings;
    assert_eq!(times, Times::documented());
    assert_eq!(limits, Limits::documented());
    assert_eq!(listen.plain, ["127.0.0.1:1337".parse().unwrap()]);
    assert_eq!(listen.tls, ["127.0.0.1:1338".parse().unwrap()]);
    assert_eq!(listen.admin, "127.0.0.1:0".parse().unwrap());
    assert!(model.is_none() && listen.bearer_token.is_none());
}

/// A right value that is not the default, near enough to it that every rule about several settings still holds.
fn sample(setting: &names::Setting, desk: &Desk) -> String {
    match setting.kind {
        Kind::Text => "something".to_owned(),
        Kind::Path => desk.put("token", "0123456789abcdef0123456789", 0o600).display().to_string(),
        Kind::List => "localhost".to_owned(),
        Kind::Switch => "true".to_owned(),
        Kind::Choice(words) => (*words.last().unwrap()).to_owned(),
        Kind::Seconds(..) => (setting.default.parse::<f64>().unwrap() + 0.5).to_string(),
        Kind::Count(..) => (setting.default.parse::<u64>().unwrap_or(0) + 10).to_string(),
        Kind::Factor(_) => "10".to_owned(),
    }
}

#[test]
fn every_setting_is_heard_as_flag_variable_and_key_and_reaches_the_settings() {
    let plain = Desk::new().resolve().unwrap().settings;
    for setting in SETTINGS.iter().filter(|setting| setting.in_file) {
        let key = setting.key;
        let desk = Desk::new();
        let value = sample(setting, &desk);
        let quoted = match setting.kind {
            Kind::Text | Kind::Path | Kind::List | Kind::Choice(_) => format!("{value:?}"),
            Kind::Switch | Kind::Seconds(..) | Kind::Count(..) | Kind::Factor(_) => value.clone(),
        };
        let desks = [
            Desk { folder: desk.folder, flags: Flags::default().with(key, &value), variables: BTreeMap::new() },
            Desk::new().variable(&setting.variable(), &value),
            Desk::new().file(&format!("{key} = {quoted}\n")),
        ];
        for desk in &desks {
            let resolved = desk.resolve().unwrap_or_else(|mistakes| panic!("{key}: {mistakes}"));
            let row = resolved.rows.iter().find(|row| row.key == key).unwrap();
            assert_eq!(row.value, value, "{key}");
            assert!(!matches!(row.source, Source::Default(_)), "{key}: {}", row.source);
            let (mut before, mut after) = (plain.clone(), resolved.settings);
            (before.home, after.home) = (PathBuf::new(), PathBuf::new());
            // This one only lifts a refusal, which the tests of H12 show.
            let changes = key != "allow_remote_plain";
            assert_eq!(format!("{before:?}") != format!("{after:?}"), changes, "{key}");
        }
    }
}

#[test]
fn wiring_memory_where_there_is_no_such_thing_is_said_and_is_no_mistake() {
    let warnings = |desk: Desk| desk.resolve().unwrap().warnings;
    assert_eq!(warnings(Desk::new()), Vec::<String>::new(), "off by default");
    let said = warnings(Desk::new().flag("wired", "true"));
    assert_eq!(said.iter().any(|line| line.starts_with("wired ")), !cfg!(target_os = "macos"), "{said:?}");
}

#[test]
fn a_choice_between_numbers_is_written_as_one_in_the_file() {
    let bits = |desk: Desk| desk.resolve().map(|resolved| resolved.settings.kv_bits).map_err(|_| ());
    assert_eq!(bits(Desk::new()), Ok(None));
    assert_eq!(bits(Desk::new().file("kv_bits = 8")), Ok(Some(8)));
    assert_eq!(bits(Desk::new().file("kv_bits = '4'")), Ok(Some(4)));
    assert_eq!(bits(Desk::new().flag("kv_bits", "off")), Ok(None));
    assert_eq!(bits(Desk::new().file("kv_bits = 5")), Err(()));
}

#[test]
fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
    let file = || Desk::new().file("port = 3");
    let port = |desk: Desk| desk.resolve().unwrap().settings.listen.plain[0].port();
    assert_eq!(port(Desk::new()), 1337);
    assert_eq!(port(file()), 3);
    assert_eq!(port(file().variable("SANCTUM_MLX_PORT", "2")), 2);
    assert_eq!(port(file().variable("SANCTUM_MLX_PORT", "2").flag("port", "1")), 1);
}

#[test]
fn a_list_may_repeat_or_be_separated_by_commas_and_a_name_gives_all_its_addresses() {
    let desk = Desk::new().flag("host", "localhost,[::1]").flag("host", "127.0.0.1");
    let plain = desk.resolve().unwrap().settings.listen.plain;
    assert_eq!(plain, ["127.0.0.1:1337".parse().unwrap(), "[::1]:1337".parse().unwrap()]);
    let desk = Desk::new().file("tls_host = ['mac.local', '127.0.0.1']");
    let listen = desk.resolve().unwrap().settings.listen;
    assert_eq!(listen.tls_names, ["mac.local", "127.0.0.1"]);
    assert_eq!(listen.tls.len(), 2);
}

#[test]
fn every_mistake_is_reported_in_one_go() {
    let desk = Desk::new().file("drain_second = 5\nport = 'x'\nqueue_jobs = 0\nhome = '/x'\nstrict = 'yes'\n");
    let token = desk.put("token", "0123456789abcdef", 0o644);
    let desk = desk
        .flag("body_seconds", "-1")
        .flag("tls_host", "nowhere.example:99")
        .flag("host", "0.0.0.0")
        .flag("api_key_file", token.to_str().unwrap())
        .flag("stall_unready_seconds", "10")
        .variable("SANCTUM_MLX_ROWS", "many")
        .variable("SANCTUM_MLX_LOG_FORMAT", "xml")
        .variable("SANCTUM_MLX_DRAIN_SECONDS", "120.5");
    insta::assert_snapshot!("mistakes", desk.report());
}

#[test]
fn h12_plain_beyond_loopback_needs_the_flag_and_the_token() {
    let remote = || Desk::new().flag("host", "mac.local");
    let with_token = |desk: Desk, text: &str, mode| {
        let path = desk.put("token", text, mode).display().to_string();
        desk.flag("api_key_file", &path)
    };
    let token = "0123456789abcdef0123456789";
    let cases = [
        (remote(), Some("wants --allow-remote-plain and --api-key-file FILE too")),
        (remote().flag("allow_remote_plain", "true"), Some("wants --api-key-file FILE too")),
        (with_token(remote(), token, 0o600), Some("wants --allow-remote-plain too")),
        (with_token(remote().flag("allow_remote_plain", "true"), token, 0o644), Some("chmod 600")),
        (with_token(remote().flag("allow_remote_plain", "true"), "short", 0o600), Some("at least 16")),
        (with_token(remote().flag("allow_remote_plain", "true"), token, 0o600), None),
        (remote().flag("no_plain", "true"), None),
    ];
    let trials = cases.len();
    for (desk, wanted) in cases {
        match (desk.resolve(), wanted) {
            (Err(mistakes), Some(words)) => {
                assert_eq!(mistakes.count(), 1, "{mistakes}");
                assert!(mistakes.to_string().contains(words), "{mistakes}");
            }
            (Ok(resolved), None) => assert!(
                resolved.settings.listen.plain.is_empty() || !resolved.settings.listen.bearer_token.unwrap().is_empty()
            ),
            (outcome, wanted) => panic!("wanted {wanted:?}, got {outcome:?}"),
        }
    }
    for host in ["0.0.0.0", "::", "::ffff:192.168.1.1", "192.168.1.1"] {
        assert!(Desk::new().flag("host", host).resolve().is_err(), "{host}");
    }
    for host in ["127.0.0.2", "::1", "localhost", "::ffff:127.0.0.1"] {
        assert!(Desk::new().flag("host", host).resolve().is_ok(), "{host}");
    }
    println!("H12, {} trials run, {} trials promised", trials + 8, 15);
}

#[test]
fn h12_the_token_is_in_no_debug_output_and_in_no_row() {
    let desk = Desk::new();
    let path = desk.put("token", "0123456789abcdef-secret", 0o600).display().to_string();
    let resolved = desk.flag("api_key_file", &path).resolve().unwrap();
    assert!(!format!("{resolved:?}").contains("secret"));
    assert!(!show::table(&resolved).contains("secret") && !show::json(&resolved).contains("secret"));
}

#[test]
fn listeners_that_would_collide_and_no_listener_at_all_are_mistakes() {
    for (desk, words) in [
        (Desk::new().flag("port", "1338"), "1338 is the port of plain HTTP too"),
        (Desk::new().flag("admin_port", "1337"), "1337 is the port of another listener too"),
        (Desk::new().flag("no_plain", "true").flag("no_tls", "true"), "neither plain HTTP nor mutual TLS is left"),
        (Desk::new().flag("tls_host", "empty"), "host empty has no address"),
    ] {
        let report = desk.report();
        assert!(report.starts_with("1 mistake ") && report.contains(words), "{report}");
    }
    assert!(Desk::new().flag("port", "0").flag("tls_port", "0").resolve().is_ok());
}

#[test]
fn times_must_be_in_order_and_the_blame_is_on_what_was_given() {
    for (desk, words) in [
        (
            Desk::new().flag("drain_seconds", "60"),
            "flag --drain-seconds: drain_seconds is 60 and stall_dead_seconds is 60",
        ),
        (Desk::new().flag("stall_dead_seconds", "20"), "flag --stall-dead-seconds: "),
        (Desk::new().flag("stall_degraded_seconds", "31"), "flag --stall-degraded-seconds: "),
        (Desk::new().flag("request_seconds", "3"), "queue_wait_seconds must be at most request_seconds"),
        (Desk::new().flag("connections", "8"), "half_handshakes must be at most connections"),
    ] {
        let report = desk.report();
        assert!(report.contains(words), "{report}");
    }
}

#[test]
fn a_settings_file_that_is_missing_where_named_or_is_not_toml_is_a_mistake() {
    let report = Desk::new().flag("config", "/nowhere/x.toml").report();
    assert!(report.contains("flag --config: /nowhere/x.toml cannot be read"), "{report}");
    let report = Desk::new().file("port = 1\nport port\n").report();
    assert!(report.contains("HOME/config.toml: is not TOML: line 2"), "{report}");
    let report = Desk::new().file("alias = [1]\nport = 1.5\n").report();
    assert!(report.contains("key alias: is an array; wants one or more texts"), "{report}");
    assert!(report.contains("\"1.5\" is not right; wants a whole number from 0 to 65535"), "{report}");
}

#[test]
fn a_variable_that_is_nearly_a_setting_is_warned_about_and_an_alien_one_is_left_alone() {
    let desk = Desk::new().variable("SANCTUM_MLX_PROT", "1").variable("SANCTUM_MLX_SOMEBODY_ELSES", "1");
    let warnings = desk.resolve().unwrap().warnings;
    assert_eq!(
        warnings,
        ["variable SANCTUM_MLX_PROT is not a setting and was ignored; did you mean SANCTUM_MLX_PORT?"]
    );
}

#[test]
#[cfg(feature = "fault")]
fn the_time_scale_divides_every_time() {
    let times = Desk::new().flag("time_scale", "10").resolve().unwrap().settings.times;
    assert_eq!((times.drain, times.watch), (Duration::from_millis(2_500), Duration::from_millis(100)));
}

#[test]
fn the_check_table_names_every_setting_and_its_source() {
    let desk = Desk::new().variable("SANCTUM_MLX_PORT", "0").file("strict = true");
    let resolved = desk.resolve().unwrap();
    let table = show::table(&resolved);
    assert_eq!(table.lines().count(), SETTINGS.len() + 1);
    let line = |key: &str| table.lines().find(|line| line.split_whitespace().next() == Some(key)).unwrap();
    assert!(line("port").ends_with("variable SANCTUM_MLX_PORT"));
    assert!(line("strict").ends_with("config.toml: key strict"));
    assert!(line("rows").ends_with("default of rows"));
    let json: serde_json::Value = serde_json::from_str(&show::json(&resolved)).unwrap();
    assert_eq!(json["port"]["value"], "0");
}

proptest::proptest! {
    #[test]
    fn no_text_in_any_setting_and_no_file_can_panic_the_resolver(
        index in 0..SETTINGS.len(), text in "\\PC{0,24}", file in "[a-z_=\\[\\]0-9.'\"# \n-]{0,80}"
    ) {
        let key = SETTINGS[index].key;
        if key != "home" && key != "config" {
            let _ = Desk::new().flag(key, &text).resolve();
        }
        let _ = Desk::new().file(&file).resolve();
    }
}
