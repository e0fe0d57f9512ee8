//! `install`, `upgrade`, `rollback`, `uninstall`, `status`, `verify`: production out of a folder that no build cleans up.
//! Plan, apply, verify, undo; each write leaves the old release or the new one, never none, and running it again finishes
//! what was begun. It owns the order of those writes; how a release is made, how definitions look and what the supervisor
//! is called are others'.

mod deploy;
mod place;
mod release;
mod report;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};

pub(crate) use self::deploy::Proof;
pub(crate) use self::release::strays;

use self::deploy::Deployment;
use self::release::Sources;
use crate::config::args::{Flags, InstallArgs, RollbackArgs, StatusArgs, UninstallArgs, VerifyArgs};
use crate::config::home;
use crate::config::resolve::resolve;
use crate::config::settings::Settings;
use crate::config::sources;
use crate::ops::definitions::{self, Place, Style};
use crate::ops::doctor::model_path;
use crate::ops::drift;
use crate::ops::fallback::lock as fallback;
use crate::ops::installed::{self, Agent, Installed, Release, Sized};
use crate::ops::supervisor::{self, Supervisor};
use crate::ops::turn;
use crate::platform::files;

/// Which build this is.
const VERSION: &str = env!("CARGO_PKG_VERSION");
const REVISION: &str = env!("SANCTUM_MLX_REVISION");

/// `install` and `upgrade`: whether something was installed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Anything or nothing.
    Any,
    /// Something must be there.
    Something,
}

/// `install` and `upgrade`.
///
/// # Errors
/// It cannot be done; what was there before is there still, and runs if it ran.
pub fn install(args: &InstallArgs, before: Before) -> anyhow::Result<()> {
    let home = home::root(args.root.home.as_deref())?;
    if let Some(unfit) = place::unfit(&home) {
        bail!("{unfit}");
    }
    home::prepare(&home)?;
    let _lock = lock(&home)?;
    // launchd makes no folder for a log.
    let logs = home.join("logs");
    fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
    if !args.no_start {
        fallback::refuse(&home)?;
    }
    let old = Installed::of(&home)?;
    if before == Before::Something && old.is_none() {
        bail!("nothing is installed in {}; `sanctum-mlx install` does", home.display());
    }
    let settings = settings(&home)?;
    let supervisor = supervisor::of_system();
    if let Some(why) = definitions::refusal(Style::of(supervisor.as_ref()), &home) {
        bail!("{why}");
    }

    let sources = Sources::of_process()?;
    let (name, there) = sources.name(&home, VERSION, REVISION)?;
    let folder = if there {
        installed::releases(&home).join(&name)
    } else {
        eprintln!("copying to {}", installed::releases(&home).join(&name).display());
        sources.lay(&home, &name, (VERSION, REVISION))?
    };
    let new = record(&home, folder, old.as_ref(), &settings)?;
    let (new, written) = define(&home, supervisor.as_ref(), new, &settings)?;
    let switched = point(&home, &new.release)?;
    new.write(&home)?;
    println!("{} is installed", new.release.display());
    if args.no_start {
        return Ok(());
    }
    let deployment = Deployment { home: &home, supervisor: supervisor.as_ref(), settings: &settings };
    if !switched && !written && deployment.is_loaded(&new)? {
        println!("it is loaded already: nothing was changed");
        return Ok(());
    }
    let Err(error) = deployment.start(&new).and_then(|()| deployment.proves(&new)) else {
        println!("it is ready, and answers a chat");
        return Ok(());
    };
    let undone = undo(&deployment, &new, old.as_ref());
    bail!("{error:#}; {undone}");
}

/// Back to what was there before; in words.
fn undo(deployment: &Deployment<'_>, new: &Installed, old: Option<&Installed>) -> String {
    let release = new.release.display();
    let Some(old) = old else {
        return match forget(deployment.home, deployment.supervisor, new) {
            Ok(()) => format!("nothing is installed again; {release} is kept to be looked at"),
            Err(error) => format!("and it could not be taken back: {error:#}; `uninstall` goes on"),
        };
    };
    if old.release == new.release {
        return format!("it stays loaded, for there is no release but {release} to go back to");
    }
    let back = point(deployment.home, &old.release)
        .and_then(|_| old.write(deployment.home))
        .and_then(|()| deployment.start(old))
        .and_then(|()| deployment.proves(old));
    match back {
        Ok(()) => format!("{} was put back, and answers", old.release.display()),
        Err(error) => format!("{} was put back, and does not answer either: {error:#}", old.release.display()),
    }
}

/// `rollback`.
///
/// # Errors
/// There is no earlier release, it is not whole, or it does not answer; the message says which one runs.
pub fn rollback(args: &RollbackArgs) -> anyhow::Result<()> {
    let home = home::root(args.root.home.as_deref())?;
    let _lock = lock(&home)?;
    if !args.no_start {
        fallback::refuse(&home)?;
    }
    let supervisor = supervisor::of_system();
    let now = Installed::of(&home)?.with_context(|| format!("nothing is installed in {}", home.display()))?;
    // An upgrade that was cut off between its switch and its record: the record still names the release before.
    let current = fs::read_link(installed::current(&home)).unwrap_or_else(|_| now.release.clone());
    let earlier = if current == now.release { now.previous.clone() } else { Some(now.release.clone()) };
    let previous = earlier.context("there is no earlier release to go back to")?;
    Release::of(&previous)?;
    let mut back = now.clone();
    (back.release, back.previous, back.at) = (previous, Some(current), seconds());
    point(&home, &back.release)?;
    back.write(&home)?;
    println!("{} is current again", back.release.display());
    if args.no_start {
        return Ok(());
    }
    let settings = settings(&home)?;
    let deployment = Deployment { home: &home, supervisor: supervisor.as_ref(), settings: &settings };
    let Err(error) = deployment.start(&back).and_then(|()| deployment.proves(&back)) else {
        println!("it is ready, and answers a chat");
        return Ok(());
    };
    let undone = undo(&deployment, &back, Some(&now));
    bail!("{error:#}; {undone}");
}

/// `uninstall`.
///
/// # Errors
/// Something is still loaded or a file cannot be removed; running it again goes on.
pub fn uninstall(args: &UninstallArgs) -> anyhow::Result<()> {
    let home = home::root(args.root.home.as_deref())?;
    let _lock = lock(&home)?;
    fallback::refuse(&home)?;
    let supervisor = supervisor::of_system();
    let Some(installed) = Installed::of(&home)? else {
        println!("nothing is installed in {}", home.display());
        return Ok(());
    };
    forget(&home, supervisor.as_ref(), &installed)?;
    if args.purge {
        let releases = installed::releases(&home);
        fs::remove_dir_all(&releases).with_context(|| releases.display().to_string())?;
    }
    println!("uninstalled; settings, certificates and models stay in {}", home.display());
    Ok(())
}

/// Unloads everything of `installed`, and removes all that names its release.
fn forget(home: &Path, supervisor: &dyn Supervisor, installed: &Installed) -> anyhow::Result<()> {
    // The watchers first: the guardian must not start what ends here.
    for agent in installed.agents.iter().rev() {
        supervisor.unload(&agent.name)?;
        for definition in &agent.definitions {
            remove(&definition.path)?;
        }
    }
    remove(&installed::current(home))?;
    remove(&installed::watchers(home))?;
    remove(&home.join("install.json"))?;
    let watch = home.join("watch");
    if watch.exists() {
        fs::remove_dir_all(&watch).with_context(|| watch.display().to_string())?;
    }
    Ok(())
}

/// `status`; whether everything is as it should be.
///
/// # Errors
/// Nothing is installed, or the supervisor cannot be asked.
pub fn status(args: &StatusArgs) -> anyhow::Result<bool> {
    let home = home::root(args.root.home.as_deref())?;
    report::status(&home, supervisor::of_system().as_ref(), args.json)
}

/// `verify`; whether every file holds what was installed.
///
/// # Errors
/// Nothing is installed, or a record is torn.
pub fn verify(args: &VerifyArgs) -> anyhow::Result<bool> {
    let home = home::root(args.root.home.as_deref())?;
    let events = drift::of(&home, supervisor::of_system().as_ref())?;
    for event in &events {
        println!("{}: {}", event.kind.name, event.detail);
    }
    if events.is_empty() {
        println!("everything is as it was installed");
    }
    Ok(events.is_empty())
}

/// One installer at a time, and no switch to the fallback meanwhile.
fn lock(home: &Path) -> anyhow::Result<File> {
    let busy =
        || format!("another installation, or a switch to or from the fallback, is under way in {}", home.display());
    turn::take(home)?.with_context(busy)
}

/// What `serve --home HOME` will be given: the settings file and the defaults, for a supervisor has no variables.
pub(crate) fn settings(home: &Path) -> anyhow::Result<Settings> {
    let flags = Flags::of_home(home);
    let mut sources = sources::Sources::of_process(&flags);
    sources.variables.clear();
    match resolve(&sources) {
        Ok(resolved) => Ok(resolved.settings),
        Err(mistakes) => bail!("{mistakes}"),
    }
}

fn record(home: &Path, folder: PathBuf, old: Option<&Installed>, settings: &Settings) -> anyhow::Result<Installed> {
    let mut new = Installed::new(old.map_or_else(seconds, |old| old.at), folder);
    // Installed once more, the one before stays the one before.
    new.previous = match old {
        Some(old) if old.release == new.release => old.previous.clone(),
        Some(old) => Some(old.release.clone()),
        None => None,
    };
    if new.previous != old.and_then(|old| old.previous.clone()) || old.is_none() {
        new.at = seconds();
    }
    let file = home.join(sources::FILE);
    new.settings = file.is_file().then(|| release::record(&file)).transpose()?;
    new.model = model(settings);
    new.drain_seconds = settings.times.drain.as_secs();
    Ok(new)
}

/// The model's files, when they lie where the settings say or are the default's: what the hub keeps is the hub's.
fn model(settings: &Settings) -> Vec<Sized> {
    let Some(path) = model_path(settings.model.as_deref(), &settings.home).filter(|path| path.is_absolute()) else {
        return Vec::new();
    };
    let inside = fs::read_dir(&path).map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect());
    let mut paths: Vec<PathBuf> = inside.unwrap_or_else(|_| vec![path]);
    paths.sort();
    let sized =
        |path: PathBuf| Some(Sized { bytes: fs::metadata(&path).ok().filter(fs::Metadata::is_file)?.len(), path });
    paths.into_iter().filter_map(sized).collect()
}

/// Writes what the supervisor reads; whether anything was changed.
fn define(
    home: &Path,
    supervisor: &dyn Supervisor,
    mut new: Installed,
    settings: &Settings,
) -> anyhow::Result<(Installed, bool)> {
    let urls = |scheme: &str, addresses: &[std::net::SocketAddr]| {
        addresses.iter().map(|address| format!("{scheme}://{}", reachable(*address))).collect::<Vec<_>>()
    };
    let listeners = [urls("http", &settings.listen.plain), urls("https", &settings.listen.tls)].concat();
    let style = Style::of(supervisor);
    let place = Place { home: home.to_owned(), drain_seconds: new.drain_seconds, listeners };
    let folder = supervisor.definitions()?;
    let mut written = false;
    for rendered in definitions::render(style, &place) {
        let mut agent = Agent { name: rendered.name, definitions: Vec::new() };
        for (name, text) in rendered.files {
            let path = folder.join(name);
            if fs::read(&path).ok().as_ref() != Some(&text) {
                files::keep(&path, &text, 0o644).with_context(|| path.display().to_string())?;
                written = true;
            }
            agent.definitions.push(release::record(&path)?);
        }
        new.agents.push(agent);
    }
    Ok((new, written))
}

/// An address that a client on this machine can ask: every address means this one.
fn reachable(mut address: std::net::SocketAddr) -> std::net::SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}

/// Makes `current` name a release, and the watchers run from it; whether it named another one before.
fn point(home: &Path, release: &Path) -> anyhow::Result<bool> {
    switch(&installed::watchers(home), &release::link(home, release)?)?;
    switch(&installed::current(home), release)
}

/// Makes a link name a folder, in one step; whether it named another one before.
fn switch(link: &Path, folder: &Path) -> anyhow::Result<bool> {
    if fs::read_link(link).is_ok_and(|named| named == folder) {
        return Ok(false);
    }
    let beside = link.with_extension("new");
    remove(&beside)?;
    std::os::unix::fs::symlink(folder, &beside).with_context(|| beside.display().to_string())?;
    fs::rename(&beside, link).with_context(|| link.display().to_string())?;
    release::flush(link.parent().context("a link is in a folder")?)?;
    Ok(true)
}

/// Removes a file or a link; one that is not there is removed.
fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
