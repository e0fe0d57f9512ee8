//! Definitions read back as launchd and systemd read them, whatever the paths look like.

#![allow(clippy::unwrap_used)]

use plist::{Dictionary, Value};
use proptest::prelude::*;

use super::*;

/// The largest drain that the settings allow is below this.
const DRAINS: [u64; 4] = [0, 25, 38, 3_600];

fn place(home: &str, drain_seconds: u64, listeners: &[&str]) -> Place {
    Place { home: home.into(), drain_seconds, listeners: listeners.iter().map(|url| (*url).to_owned()).collect() }
}

fn plist(rendered: &Rendered) -> Dictionary {
    assert_eq!(rendered.files[0].0, format!("{}.plist", rendered.name));
    let value = Value::from_reader_xml(rendered.files[0].1.as_slice()).unwrap();
    let dictionary = value.into_dictionary().unwrap();
    assert_eq!(dictionary["Label"].as_string(), Some(rendered.name.as_str()));
    dictionary
}

fn arguments(plist: &Dictionary) -> Vec<String> {
    let words = plist["ProgramArguments"].as_array().unwrap();
    words.iter().map(|word| word.as_string().unwrap().to_owned()).collect()
}

fn key<'a>(unit: &'a str, key: &str) -> Option<&'a str> {
    unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

fn unit(rendered: &Rendered, end: &str) -> String {
    let (_, bytes) = rendered.files.iter().find(|(name, _)| name.ends_with(end)).unwrap();
    String::from_utf8(bytes.clone()).unwrap()
}

/// `ExecStart` as systemd.service(5) and systemd.syntax(7) have it read: words, quotes, escapes, specifiers.
fn executed(unit: &str) -> Vec<String> {
    let line = key(unit, "ExecStart").unwrap().strip_prefix(':').expect("no variables are put in");
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let plain = match character {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
                continue;
            }
            ' ' if !quoted => {
                words.extend(word.take());
                continue;
            }
            '\\' => characters.next().filter(|next| matches!(next, '\\' | '"')).expect("no other escape is written"),
            '%' => characters.next().filter(|next| *next == '%').expect("no specifier is written"),
            other => other,
        };
        word.get_or_insert_default().push(plain);
    }
    assert!(!quoted, "{line}");
    words.extend(word);
    words
}

/// The arguments of all, by both styles; they must be the same.
fn all_arguments(place: &Place) -> Vec<Vec<String>> {
    let launchd: Vec<_> = render(Style::Launchd, place).iter().map(|one| arguments(&plist(one))).collect();
    let systemd: Vec<_> = render(Style::Systemd, place).iter().map(|one| executed(&unit(one, ".service"))).collect();
    assert_eq!(launchd, systemd);
    launchd
}

proptest! {
    #[test]
    fn any_path_is_read_as_it_is(home in "/[^\\pC]{0,40}[^\\pC/]", url in "https?://[^\\pC ]{1,20}") {
        let (program, watcher) = (format!("{home}/current/bin/sanctum-mlx"), format!("{home}/watchers/bin/sanctum-mlx"));
        let place = place(&home, 25, &[&url]);
        let all = all_arguments(&place);
        prop_assert!(all[0][0] == program && all[0].contains(&home));
        prop_assert!(all[1..].iter().all(|words| words[0] == watcher && words.contains(&home)));
        prop_assert_eq!(all[1].last(), Some(&url));
    }
}

#[test]
fn the_server_comes_first_and_each_runs_what_it_is_named_for() {
    let place = place("/a b/h", 25, &["http://x:1", "https://x:2"]);
    let expected = [
        "serve --home /a b/h --log-file /a b/h/logs/serve.log",
        "guardian --home /a b/h --drain-seconds 25 --listener http://x:1 --listener https://x:2",
        "canary --home /a b/h --url https://x:2",
        "probe integrity --every-seconds 300 --home /a b/h",
        "drift --home /a b/h",
        "parity-smoke --home /a b/h --url https://x:2",
    ];
    for (words, expected) in all_arguments(&place).iter().zip(expected) {
        let link = if expected.starts_with("serve") { "current" } else { "watchers" };
        assert_eq!(words[0], format!("/a b/h/{link}/bin/sanctum-mlx"));
        assert_eq!(words[1..].join(" "), expected);
    }
    let names = |style| render(style, &place).into_iter().map(|one| one.name).collect::<Vec<_>>();
    assert_eq!(names(Style::Launchd)[..2], ["com.sanctum.mlx", "com.sanctum.mlx-guardian"]);
    assert_eq!(names(Style::Systemd)[..2], ["sanctum-mlx.service", "sanctum-mlx-guardian.timer"]);
    let none = Place { listeners: Vec::new(), ..place };
    assert_eq!(all_arguments(&none)[1].last().unwrap(), "25");
    assert_eq!(all_arguments(&none)[2].last().unwrap(), "/a b/h");
    let plain = Place { listeners: vec!["http://x:1".to_owned()], ..none };
    assert_eq!(all_arguments(&plain)[2].last().unwrap(), "http://x:1");
}

#[test]
fn a_home_that_no_definition_can_name_is_refused_and_named() {
    let refused = |home: &str| [Style::Launchd, Style::Systemd].map(|style| refusal(style, Path::new(home)).is_some());
    assert_eq!(refused("/a b/%h $X & <é>"), [false, false]);
    assert_eq!(refused("/a\nb"), [true, true]);
    for home in ["/a\"b", "/a'b", "/a\\b"] {
        assert_eq!(refused(home), [false, true], "{home}");
    }
    let not_text = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"/\xff");
    assert!(refusal(Style::Launchd, Path::new(not_text)).is_some_and(|why| why.contains("UTF-8")));
    assert!(refusal(Style::Systemd, Path::new("/a\\b")).is_some_and(|why| why.contains("/a\\b has a \\ in it")));
}

#[test]
fn l13_the_supervisor_waits_longer_than_the_drain_and_two_seconds() {
    for drain in DRAINS {
        let place = place("/h", drain, &[]);
        let server = plist(&render(Style::Launchd, &place)[0]);
        let exit = server["ExitTimeOut"].as_unsigned_integer().unwrap();
        let unit = unit(&render(Style::Systemd, &place)[0], ".service");
        assert_eq!(key(&unit, "TimeoutStopSec"), Some(exit.to_string().as_str()));
        assert!(exit > drain + 2 && exit >= 40, "{exit} s for a drain of {drain} s");
    }
}

#[test]
fn only_the_server_is_kept_alive_and_each_companion_has_its_cadence() {
    let place = place("/h", 25, &[]);
    let all: Vec<Dictionary> = render(Style::Launchd, &place).iter().map(plist).collect();
    let number = |plist: &Dictionary, key: &str| plist.get(key).and_then(Value::as_unsigned_integer);
    let yes = |plist: &Dictionary, key: &str| plist.get(key).and_then(Value::as_boolean) == Some(true);
    assert!(yes(&all[0], "KeepAlive") && yes(&all[0], "RunAtLoad") && number(&all[0], "ThrottleInterval") == Some(10));
    assert!(all[1..].iter().all(|plist| !yes(plist, "KeepAlive")));
    let every: Vec<_> = all.iter().map(|plist| number(plist, "StartInterval")).collect();
    assert_eq!(every, [None, Some(60), Some(600), Some(300), Some(3_600), None]);
    let night = all[5]["StartCalendarInterval"].as_dictionary().unwrap();
    assert_eq!((number(night, "Hour"), number(night, "Minute")), (Some(3), Some(0)));
    for (at, plist) in all.iter().enumerate() {
        let kind = if at == 0 { "Interactive" } else { "Background" };
        assert_eq!(plist["ProcessType"].as_string(), Some(kind));
        assert!(plist["StandardErrorPath"].as_string().unwrap().starts_with("/h/logs/"));
        assert!(!plist.contains_key("EnvironmentVariables"), "no secret can stand in it");
    }
    let units = render(Style::Systemd, &place);
    for (one, every) in units.iter().zip(every) {
        let service = unit(one, ".service");
        let Some(timer) = one.files.iter().any(|(name, _)| name.ends_with(".timer")).then(|| unit(one, ".timer"))
        else {
            for (name, value) in [("Restart", "always"), ("RestartSec", "10"), ("StartLimitIntervalSec", "0")] {
                assert_eq!(key(&service, name), Some(value));
            }
            assert_eq!(key(&service, "KillMode"), Some("mixed"));
            continue;
        };
        assert_eq!((key(&service, "Type"), key(&service, "Restart")), (Some("oneshot"), None));
        assert_eq!(key(&service, "Environment"), Some("OPENBLAS_NUM_THREADS=1"));
        assert_eq!(key(&timer, "OnUnitActiveSec").map(str::to_owned), every.map(|every| every.to_string()));
        assert_eq!(key(&timer, "OnCalendar").is_some(), every.is_none());
    }
}

fn mlx_lm<'a>(home: &'a str, model: &'a str) -> Fallback<'a> {
    Fallback { home: Path::new(home), python: Path::new(home), model, port: 1337 }
}

#[test]
fn the_fallback_is_disabled_until_it_is_activated() {
    let rendered = fallback(Style::Launchd, mlx_lm("/v/python3", "a/b"));
    let list = plist(&rendered);
    assert_eq!(list["Disabled"].as_boolean(), Some(true));
    let expected = "/v/python3 -m mlx_lm.server --model a/b --host 127.0.0.1 --port 1337";
    assert_eq!(arguments(&list).join(" "), expected);
    assert_eq!(fallback_name(Style::Launchd), ("com.sanctum.server-mlx", rendered.files[0].0.clone()));
    let rendered = fallback(Style::Systemd, mlx_lm("/v/python3", "a/b"));
    assert_eq!(executed(&unit(&rendered, ".service")).join(" "), expected);
    assert_eq!(rendered.files.len(), 1);
    assert_eq!(fallback_name(Style::Systemd), (rendered.name.as_str(), rendered.files[0].0.clone()));
}

proptest! {
    #[test]
    fn the_fallback_is_started_with_the_words_that_were_given(home in "/[a-zA-Z0-9 $%&<>é-]{1,30}", model in "[a-zA-Z0-9/ $%&<>_-]{1,30}") {
        for style in [Style::Launchd, Style::Systemd] {
            let rendered = fallback(style, mlx_lm(&home, &model));
            let words = match style {
                Style::Launchd => arguments(&plist(&rendered)),
                Style::Systemd => executed(&unit(&rendered, ".service")),
            };
            prop_assert_eq!(&words[..5], [home.as_str(), "-m", "mlx_lm.server", "--model", model.as_str()]);
        }
    }
}
