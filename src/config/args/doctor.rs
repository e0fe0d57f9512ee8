//! The page of the manual about `doctor`: what it looks at and what its words mean.

pub(super) const DOCTOR_NOTES: &str = "\
It looks at the installation and the program that the next start executes (the installed one, else this one): the file,
its signature (macOS; elsewhere its hash in the install record), the metallib beside it (macOS); the settings; the model,
whether its files are whole, and its manifest; the root and the log folder; certificates and keys; every port and who owns
it; disk, memory, open files, the clock; the firewall (macOS); the agents, and whether they run before anybody logs in. It
loads no model and changes nothing.

  ok    as it should be
  warn  the next start works, but somebody should look
  FAIL  the next start fails; the line below says what to do
  n/a   it cannot be looked at here, or there is nothing to look at; in JSON not_applicable

Examples:
  sanctum-mlx doctor
  sanctum-mlx doctor --json | jq '.[] | select(.grade == \"fail\")'

Exit codes: 0 nothing failed; 1 the next start fails; 64 the command line is not understood.";
