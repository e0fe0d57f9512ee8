//! The command line as text: what is understood, what is refused, and the manual.

use clap::CommandFactory;

use super::*;

fn line(words: &str) -> Result<Cli, clap::Error> {
    parse(std::iter::once("sanctum-mlx").chain(words.split_whitespace()).map(OsString::from))
}

#[test]
fn clap_finds_no_fault_with_the_definition() {
    Cli::command().debug_assert();
}

#[test]
fn every_setting_is_a_flag_of_serve_and_of_doctor() {
    for setting in SETTINGS {
        for command in ["serve", "doctor"] {
            let words = match setting.kind {
                Kind::Switch => format!("{command} {}", setting.flag()),
                _ => format!("{command} {} -1", setting.flag()),
            };
            let words = words.replace(" -1", if setting.kind == Kind::List { " x" } else { " -1" });
            let cli = line(&words).unwrap_or_else(|error| panic!("{words}: {error}"));
            let (Command::Serve(ServeArgs { flags, .. }) | Command::Doctor(DoctorArgs { flags, .. })) = cli.command
            else {
                panic!("{words} is another command")
            };
            assert_eq!(flags.texts(setting.key).map(<[String]>::len), Some(1), "{words}");
        }
    }
}

#[test]
fn a_line_that_is_not_understood_exits_64_and_help_and_version_exit_0() {
    for (words, code) in [
        ("", 64),
        ("serve --nonsense", 64),
        ("serve --port", 64),
        ("serve --port 1 --port 2", 64),
        ("serve --json", 64),
        ("certs issue", 64),
        ("probe http --cert x", 64),
        ("bench --clients 257", 64),
        ("bench --tokens 1", 64),
        ("bench --rate 0", 64),
        ("bench --slo-ttft-ms -1", 64),
        ("bench --rate 1,nan", 64),
        ("--help", 0),
        ("--version", 0),
        ("serve --help", 0),
        ("probe --help", 0),
        ("bench --help", 0),
    ] {
        let refusal = line(words).expect_err(words);
        assert_eq!(exit_code(&refusal), code, "{words}");
    }
}

#[test]
#[cfg(not(feature = "fault"))]
fn fault_flags_are_unknown_without_the_feature() {
    for words in ["serve --fault panic@3", "serve --time-scale 10"] {
        let refusal = line(words).expect_err(words);
        assert_eq!(refusal.kind(), clap::error::ErrorKind::UnknownArgument, "{words}");
        assert_eq!(exit_code(&refusal), EXIT_USAGE);
    }
}

#[test]
#[cfg(feature = "fault")]
fn fault_flags_are_known_with_the_feature() {
    assert!(line("serve --fault panic@3,nan@4 --time-scale 10").is_ok());
}

#[test]
fn certs_and_probe_take_the_root_behind_their_action() {
    let Command::Certs(certs) = line("certs list --json --home /h").expect("it is right").command else { panic!() };
    assert_eq!(certs.root.home.as_deref(), Some(std::path::Path::new("/h")));
    let Command::Probe(probe) = line("probe chat --url http://x --timeout-seconds 1.5").expect("it is right").command
    else {
        panic!()
    };
    assert_eq!((probe.kind, probe.timeout_seconds), (ProbeKind::Chat, Some(1.5)));
}

#[test]
#[cfg(not(feature = "fault"))]
fn the_manual_of_serve_is_as_recorded() {
    let mut command = Cli::command();
    let serve = command.find_subcommand_mut("serve").expect("it is a subcommand");
    insta::assert_snapshot!("serve_help", serve.clone().term_width(110).render_long_help().to_string());
}
