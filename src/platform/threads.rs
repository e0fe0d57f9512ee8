//! What the threads of this process are doing, one line each, for the dump of a stall. On Linux it reads `/proc/self`;
//! on macOS it runs `sample`, bounded in time. It never takes a lock of ours.

/// One line a thread.
#[cfg(target_os = "linux")]
#[must_use]
pub fn describe() -> Vec<String> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return vec!["no /proc to read".to_owned()] };
    tasks.filter_map(Result::ok).map(|task| describe_task(&task.path())).collect()
}

/// Name, state, wait channel, system call and CPU time of one task.
#[cfg(target_os = "linux")]
fn describe_task(task: &std::path::Path) -> String {
    let read = |name: &str| std::fs::read_to_string(task.join(name)).unwrap_or_default().trim().to_owned();
    let stat = read("stat");
    // The name may hold spaces and parentheses: the fields start behind its last parenthesis.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let field = |index: usize| fields.get(index).copied().unwrap_or("?");
    let syscall = read("syscall");
    format!(
        "tid={} name={} state={} wchan={} syscall={} cpu_ticks={}+{}",
        task.file_name().unwrap_or_default().to_string_lossy(),
        read("comm"),
        field(0),
        read("wchan"),
        syscall.split(' ').next().unwrap_or("?"),
        field(11),
        field(12),
    )
}

/// One line a frame of a one-second sample.
#[cfg(target_os = "macos")]
#[must_use]
pub fn describe() -> Vec<String> {
    /// The dump must not outlive the process it describes.
    const LINES_MAX: usize = 400;
    let sample = std::process::Command::new("/usr/bin/sample")
        .args([std::process::id().to_string().as_str(), "1", "-mayDie"])
        .output();
    match sample {
        Ok(output) => String::from_utf8_lossy(&output.stdout).lines().take(LINES_MAX).map(str::to_owned).collect(),
        Err(error) => vec![format!("sample could not be run: {error}")],
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_dump_names_a_thread_that_runs() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("a named one".to_owned()).spawn(move || {
            tell.send(()).expect("the test waits");
            let _ = stopped.recv();
        });
        told.recv().expect("the thread runs and has its name");
        let dump = describe().join("\n");
        drop(stop);
        thread.expect("the system gives a thread").join().expect("it ends when told");
        assert!(dump.contains("name=a named one state="), "{dump}");
        assert!(dump.contains("cpu_ticks="), "{dump}");
    }
}
