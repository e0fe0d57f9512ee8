//! The release folder: everything that the program loads is there, as large and as old as when it was installed. What the
//! files hold is `drift`'s to compare.

use std::fs;

use crate::ops::installed::modified_ns;
use crate::ops::integrity::Facts;

/// Each file of the record has its recorded size and time.
pub(super) fn of(facts: &Facts) -> Vec<String> {
    let Some((folder, release)) = &facts.release else { return Vec::new() };
    let mut wrong = Vec::new();
    for file in &release.files {
        let path = folder.join(&file.path);
        let shown = path.display();
        match fs::metadata(&path) {
            Err(error) => wrong.push(format!("{shown}, which the program needs: {error}")),
            Ok(found) if found.len() != file.bytes => {
                wrong.push(format!("{shown} has {} bytes, and {} were installed", found.len(), file.bytes));
            }
            Ok(found) if modified_ns(&found) != file.modified_ns => {
                wrong.push(format!("{shown} was written to after it was installed"));
            }
            Ok(_) => {}
        }
    }
    wrong
}
