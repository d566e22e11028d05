//! What a process takes of the machine.

/// Resident memory of a process, bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    figure(pid, "VmRSS:")
}

/// The most that it was so far.
pub fn peak_resident_bytes(pid: u32) -> u64 {
    figure(pid, "VmHWM:")
}

fn figure(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok()).expect("a figure in kB") * 1024
}
