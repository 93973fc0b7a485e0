//! The machine that the numbers come from.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use serde::{Deserialize, Serialize};

use crate::resident::kib;

/// A description of the machine. What could not be found out is `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// The operating system's family: `linux`, `macos`, `windows` ...
    pub os: String,
    /// The system's release, such as `Debian GNU/Linux 13 (trixie)`. In a container, the container's.
    pub os_release: Option<String>,
    /// The kernel's release, such as `6.12.43`.
    pub kernel: Option<String>,
    /// The processor's architecture that this program was built for: `x86_64`, `aarch64` ...
    pub arch: String,
    /// The processor's model. Most ARM kernels do not tell.
    pub cpu: Option<String>,
    /// The machine's name on the network. In a container, the container's.
    pub hostname: Option<String>,
    /// Threads that this process may run at once, after affinity and quotas.
    pub threads: Option<usize>,
    /// Bytes of main memory in the machine.
    pub memory_bytes: Option<u64>,
    /// Bytes of main memory that a container may use, if it is limited and its control group can be read here. Limits
    /// of other control groups (a batch system's, a service's) are not looked for.
    pub memory_limit_bytes: Option<u64>,
}

/// Describes this machine.
#[must_use]
pub fn environment() -> Environment {
    let memory_bytes = read("/proc/meminfo")
        .and_then(|text| kib(&text, "MemTotal"))
        .or_else(|| sysctl("hw.memsize")?.parse().ok());
    Environment {
        os: std::env::consts::OS.to_owned(),
        os_release: read("/etc/os-release").and_then(|text| pretty_name(&text)),
        kernel: read("/proc/sys/kernel/osrelease").or_else(|| sysctl("kern.osrelease")),
        arch: std::env::consts::ARCH.to_owned(),
        cpu: read("/proc/cpuinfo")
            .and_then(|text| model_name(&text))
            .or_else(|| sysctl("machdep.cpu.brand_string")),
        hostname: read("/proc/sys/kernel/hostname").or_else(|| sysctl("kern.hostname")),
        threads: available_parallelism().ok().map(usize::from),
        memory_bytes,
        memory_limit_bytes: memory_limit(memory_bytes),
    }
}

/// The limit of version 2 or 1 of control groups. "No limit" is a word in one and a huge number in the other.
fn memory_limit(memory: Option<u64>) -> Option<u64> {
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        .find_map(|path| read(path)?.parse().ok())
        .filter(|&limit| memory.is_none_or(|memory| limit < memory))
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    text(value.trim().trim_matches(['"', '\'']))
}

fn model_name(cpuinfo: &str) -> Option<String> {
    cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| text(value)).flatten()
    })
}

fn read(path: &str) -> Option<String> {
    text(&fs::read_to_string(path).ok()?)
}

/// macOS has no `/proc`, and its call for this would be unsafe code.
fn sysctl(name: &str) -> Option<String> {
    if !cfg!(target_os = "macos") {
        return None;
    }
    let output = Command::new("/usr/sbin/sysctl").args(["-n", name]).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8(output.stdout).ok())
        .flatten()
        .and_then(|out| text(&out))
}

/// The text, if it says anything.
fn text(found: &str) -> Option<String> {
    let found = found.trim();
    (!found.is_empty() && found != "unknown").then(|| found.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describes_this_machine() {
        let here = environment();
        assert_eq!(here.os, std::env::consts::OS);
        assert_ne!(here.threads, Some(0));
        assert_eq!(here.memory_bytes.is_some(), cfg!(any(target_os = "linux", target_os = "macos")));
        assert_ne!(here.memory_bytes, Some(0));
        let json = serde_json::to_string(&here).unwrap();
        assert_eq!(serde_json::from_str::<Environment>(&json).unwrap(), here);
    }

    #[test]
    fn reads_what_kernels_write() {
        assert_eq!(
            model_name("processor\t: 0\nmodel\t\t: 85\nmodel name\t: Some CPU @ 2.0GHz\n").as_deref(),
            Some("Some CPU @ 2.0GHz")
        );
        assert_eq!(model_name("processor\t: 0\nmodel name\t: unknown\n"), None);
        assert_eq!(model_name("processor : 0\nBogoMIPS : 50.0\n"), None, "as on ARM");
        assert_eq!(pretty_name("NAME=x\nPRETTY_NAME=\"Some OS 1\"\n").as_deref(), Some("Some OS 1"));
        assert_eq!(pretty_name("NAME=x\n"), None);
    }
}
