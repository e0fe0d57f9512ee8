//! From the primary to the fallback and back, step by step: the word is written before the first step and taken back after
//! the last, so that whoever finds half a switch knows which way it went. It owns the order, what must be there before
//! anything is ended, and the way back when a step fails; it refuses to decide when a switch is right.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::ops::definitions::{self, Style};
use crate::ops::fallback::lock::{Lock, Part};
use crate::ops::install;
use crate::ops::installed::Installed;
use crate::ops::integrity;
use crate::ops::supervisor::Supervisor;
use crate::ops::watch::plan::{FILE, Plan};

/// The two servers of one home and whoever loads them.
pub(crate) struct Switch<'a> {
    pub(crate) home: &'a Path,
    pub(crate) supervisor: &'a dyn Supervisor,
    /// What the supervisor calls the primary.
    pub(crate) primary: &'a str,
}

impl Switch<'_> {
    /// The fallback, when everything is there that its start needs.
    ///
    /// # Errors
    /// None is configured, or its definition or its interpreter is missing; the message says which.
    pub(crate) fn fallback(&self, plan: &Plan) -> anyhow::Result<Part> {
        if !plan.fallback.enabled {
            let file = self.home.join(FILE);
            bail!("no fallback is configured: {} wants [fallback] with enabled = true", file.display());
        }
        let (name, file) = definitions::fallback_name(Style::of(self.supervisor));
        let definition = self.supervisor.definitions()?.join(file);
        if !definition.is_file() {
            bail!("{} is missing, which defines the fallback {name}", definition.display());
        }
        let program = integrity::program_of(&definition).with_context(|| definition.display().to_string())?;
        startable(&program).with_context(|| format!("the fallback's interpreter, by {}", definition.display()))?;
        Ok(Part { name: name.to_owned(), definition })
    }

    /// What must be known before anything is ended: the fallback, and the way back.
    ///
    /// # Errors
    /// The fallback serves already, would not start, or the primary's definition is not known.
    fn prepare(&self, plan: &Plan, why: &str, now: u64) -> anyhow::Result<Lock> {
        if let Some(lock) = Lock::of(self.home)? {
            bail!("there is no fallback from the fallback: {}", lock.words());
        }
        let fallback = self.fallback(plan)?;
        let loaded = self.supervisor.look(self.primary)?.and_then(|service| service.definition);
        let installed = || {
            let installed = Installed::of(self.home).ok().flatten()?;
            let agent = installed.agents.into_iter().find(|agent| agent.name == self.primary)?;
            agent.definitions.into_iter().next().map(|recorded| recorded.path)
        };
        let definition = match loaded.or_else(installed) {
            Some(definition) => definition,
            None => self.defined(self.primary)?,
        };
        if !definition.is_file() {
            bail!("{} is missing, which defines {}: there would be no way back", definition.display(), self.primary);
        }
        let primary = Part { name: self.primary.to_owned(), definition };
        Ok(Lock { at: now, why: why.to_owned(), url: plan.fallback.url.clone(), primary, fallback })
    }

    /// Where a definition of this name lies.
    fn defined(&self, name: &str) -> anyhow::Result<PathBuf> {
        let file = if self.supervisor.name() == "launchd" { format!("{name}.plist") } else { name.to_owned() };
        Ok(self.supervisor.definitions()?.join(file))
    }

    /// Ends the primary and starts the fallback, which then loads its model.
    ///
    /// # Errors
    /// It is refused and nothing was changed, or the fallback cannot be loaded and the primary was put back.
    pub(crate) fn activate(&self, plan: &Plan, why: &str, now: u64) -> anyhow::Result<Lock> {
        let lock = self.prepare(plan, why, now)?;
        lock.write(self.home)?;
        let Err(error) = self.exchange(&lock.primary, &lock.fallback) else { return Ok(lock) };
        let back = self.exchange(&lock.fallback, &lock.primary);
        Lock::remove(self.home)?;
        match back {
            Ok(()) => bail!("{error:#}; {} was loaded again", lock.primary.name),
            Err(more) => bail!("{error:#}; {} cannot be loaded again either: {more:#}", lock.primary.name),
        }
    }

    /// Loads the fallback anew while it has the word, and sees that the primary is not loaded.
    ///
    /// # Errors
    /// The supervisor refuses.
    pub(crate) fn revive(&self, lock: &Lock) -> anyhow::Result<()> {
        self.exchange(&lock.primary, &lock.fallback)
    }

    /// Ends the fallback, starts the primary, and sees that it answers.
    ///
    /// # Errors
    /// The fallback does not serve, or the primary would not boot or does not answer: the fallback serves on.
    pub(crate) fn restore(&self) -> anyhow::Result<Lock> {
        let lock = Lock::of(self.home)?.context("the fallback does not serve: there is nothing to go back from")?;
        let Lock { primary, fallback, .. } = &lock;
        let obstacles = integrity::obstacles(self.home, self.supervisor, &primary.name);
        if !obstacles.is_empty() {
            bail!("{} would not boot: {}; {} serves on", primary.name, obstacles.join("; "), fallback.name);
        }
        let proof = install::Proof::of(self.home).with_context(|| format!("{} serves on", fallback.name))?;
        let done = self.exchange(fallback, primary).and_then(|()| proof.answers(self.supervisor, &primary.name));
        let Err(error) = done else {
            Lock::remove(self.home)?;
            return Ok(lock);
        };
        match self.exchange(primary, fallback) {
            Ok(()) => bail!("{error:#}; {} was loaded again", fallback.name),
            Err(more) => bail!("{error:#}; {} cannot be loaded again either: {more:#}", fallback.name),
        }
    }

    /// Two models rarely fit into memory, and one port is one server's: the one ends before the other begins. What is
    /// unloaded is not started at login either, so that the two never race.
    fn exchange(&self, from: &Part, to: &Part) -> anyhow::Result<()> {
        self.supervisor.unload(&from.name)?;
        self.supervisor.load(&to.name, &to.definition)
    }
}

pub(super) fn startable(program: &Path) -> anyhow::Result<()> {
    let shown = program.display();
    if !program.is_absolute() {
        bail!("{shown} is no absolute path");
    }
    let facts = fs::metadata(program).with_context(|| shown.to_string())?;
    if !facts.is_file() || facts.permissions().mode() & 0o111 == 0 {
        bail!("{shown} cannot be executed");
    }
    Ok(())
}
