//! What was laid down, started: definitions loaded anew, because neither supervisor reads a changed one by itself, and then
//! looked at as a user would, with a real chat over the listener that users have.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::client::Client;
use crate::config::args::{RootArgs, ServerArgs};
use crate::config::settings::Settings;
use crate::ops::installed::Installed;
use crate::ops::look::{self, Seen};
use crate::ops::serving::Serving;
use crate::ops::supervisor::Supervisor;
use crate::ops::target::Target;
use crate::ops::watch::plan::{Canary, Plan};

/// How long the server may take to be ready: loading a large model from a slow disk.
const READY_LIMIT: Duration = Duration::from_secs(15 * 60);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(100);
/// How long one look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// Starts that may end before one is ready.
const ENDS_MAX: u32 = 3;

/// Where it is started, by whom, as what.
pub(super) struct Deployment<'a> {
    pub(super) home: &'a Path,
    pub(super) supervisor: &'a dyn Supervisor,
    pub(super) settings: &'a Settings,
}

impl Deployment<'_> {
    /// Whether everything of `installed` is loaded.
    pub(super) fn is_loaded(&self, installed: &Installed) -> anyhow::Result<bool> {
        for agent in &installed.agents {
            if self.supervisor.look(&agent.name)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Loads everything from its definition as it is now: the server first, and its watchers when it was.
    pub(super) fn start(&self, installed: &Installed) -> anyhow::Result<()> {
        for agent in &installed.agents {
            let definition = agent.definitions.first().context("an agent has a definition")?;
            self.supervisor.load(&agent.name, &definition.path)?;
            eprintln!("{} loaded {}", self.supervisor.name(), agent.name);
        }
        Ok(())
    }

    /// Waits until the server is ready, and asks it something.
    pub(super) fn proves(&self, installed: &Installed) -> anyhow::Result<()> {
        let server = installed.agents.first().context("the server is installed first")?;
        self.answers(&server.name)
    }

    fn answers(&self, service: &str) -> anyhow::Result<()> {
        self.ready(service)?;
        let target = target(self.home, self.settings)?;
        let Canary { question, expected } = Plan::of(self.home)?.canary;
        match look::chat(&target.client(look::CHAT_LIMIT)?, &question, &expected) {
            Seen::Fine(_) => Ok(()),
            Seen::Busy(why) | Seen::Failed(why) | Seen::CannotLook(why) => {
                bail!("a chat at {} failed: {why}", target.url)
            }
        }
    }

    fn ready(&self, service: &str) -> anyhow::Result<()> {
        let (begun, mut pids) = (Instant::now(), Vec::new());
        loop {
            let pid = self.supervisor.look(service)?.and_then(|service| service.pid);
            if let Some(pid) = pid.filter(|pid| pids.last() != Some(pid)) {
                pids.push(pid);
            }
            if pids.len() > ENDS_MAX as usize {
                bail!("{service} ended {ENDS_MAX} times before it was ready; its log says why");
            }
            // Another process may have been ready before: only the one that was just started counts.
            if let Some(serving) = Serving::of(self.home).filter(|serving| Some(serving.pid) == pid) {
                let client = Client::new(&format!("http://{}", serving.admin), None, LOOK_LIMIT)?;
                if client.get("/health/ready").is_ok_and(|reply| reply.status == 200) {
                    return Ok(());
                }
            }
            if begun.elapsed() > READY_LIMIT {
                bail!("{service} is not ready after {} s", READY_LIMIT.as_secs());
            }
            std::thread::park_timeout(LOOK);
        }
    }
}

/// The listener that users have.
fn target(home: &Path, settings: &Settings) -> anyhow::Result<Target> {
    let url = match (settings.listen.tls.first(), settings.listen.plain.first()) {
        (Some(address), _) => format!("https://{}", super::reachable(*address)),
        (None, Some(address)) => format!("http://{}", super::reachable(*address)),
        (None, None) => bail!("the settings name no listener"),
    };
    let root = RootArgs { home: Some(home.to_owned()) };
    Target::of(&ServerArgs { url: Some(url), ca: None, cert: None, key: None, root })
}

/// The proof that a server of this home answers, for whoever starts one without installing it.
pub(crate) struct Proof {
    home: PathBuf,
    settings: Settings,
}

impl Proof {
    /// By the home's settings.
    ///
    /// # Errors
    /// They do not resolve: the server would refuse them too.
    pub(crate) fn of(home: &Path) -> anyhow::Result<Self> {
        Ok(Self { home: home.to_owned(), settings: super::settings(home)? })
    }

    /// Where users ask it, and as whom.
    pub(crate) fn target(&self) -> anyhow::Result<Target> {
        target(&self.home, &self.settings)
    }

    /// Waits until `service` is ready, and asks it something.
    pub(crate) fn answers(&self, supervisor: &dyn Supervisor, service: &str) -> anyhow::Result<()> {
        Deployment { home: &self.home, supervisor, settings: &self.settings }.answers(service)
    }
}
