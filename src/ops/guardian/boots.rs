//! Whether the next start would boot: what the supervisor would execute is there, may be executed, and is not a build's.
//! A restart of a server that still runs, from a file that is gone, is how an outage begins.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::ops::supervisor::Service;

/// What cargo puts into a build folder.
const BUILD_MARK: &str = "CACHEDIR.TAG";

/// Everything that would keep `service` from starting; empty when it would.
pub(super) fn obstacles(service: &Service) -> Vec<String> {
    let mut wrong = Vec::new();
    match &service.program {
        None => wrong.push("the supervisor does not say what it would execute".to_owned()),
        Some(program) => wrong.extend(of_program(program)),
    }
    match &service.definition {
        None => wrong.push("the supervisor does not say which file defines the service".to_owned()),
        Some(path) if !path.is_file() => {
            wrong.push(format!("{} is gone, which defines the service", path.display()));
        }
        Some(_) => {}
    }
    wrong
}

fn of_program(program: &Path) -> Option<String> {
    let shown = program.display();
    let facts = match fs::metadata(program) {
        Ok(facts) => facts,
        Err(error) => return Some(format!("{shown}, which would be executed: {error}")),
    };
    if !facts.is_file() {
        return Some(format!("{shown}, which would be executed, is no file"));
    }
    if facts.permissions().mode() & 0o111 == 0 {
        return Some(format!("{shown} may not be executed"));
    }
    let real = fs::canonicalize(program).ok()?;
    let build = real.ancestors().find(|folder| folder.join(BUILD_MARK).exists())?;
    Some(format!("{shown} lies in the build folder {}, which a clean-up removes", build.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn p9_a_missing_foreign_or_built_program_and_a_missing_definition_are_each_named() {
        let folder = tempfile::tempdir().unwrap();
        let (program, definition) = (folder.path().join("bin/x"), folder.path().join("x.plist"));
        let service =
            Service { program: Some(program.clone()), definition: Some(definition.clone()), ..Service::default() };
        assert_eq!(obstacles(&Service::default()).len(), 2);
        assert_eq!(obstacles(&service).len(), 2);
        fs::write(&definition, "").unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(obstacles(&service)[0].contains("may not be executed"));
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(obstacles(&service), Vec::<String>::new());
        fs::write(folder.path().join(BUILD_MARK), "").unwrap();
        assert!(obstacles(&service)[0].contains("lies in the build folder"));
        fs::remove_file(&program).unwrap();
        assert!(obstacles(&service)[0].contains("No such file"));
    }
}
