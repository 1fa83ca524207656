//! The process as the operating system sees it: memory, descriptors, processor time.

use std::{fs, io};

use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};

/// The process at some moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Process {
    /// Memory that it has, bytes.
    pub(super) resident_bytes: u64,
    /// Addresses that it has, bytes.
    pub(super) virtual_bytes: u64,
    /// Descriptors that are open.
    pub(super) open_fds: usize,
    /// Descriptors that may be; none: no bound.
    pub(super) max_fds: Option<u64>,
    /// Processor time that it has used, its own and the system's on its behalf.
    pub(super) cpu_seconds: f64,
    /// Its threads.
    pub(super) threads: u64,
    /// When it was started, seconds since 1970.
    pub(super) started_at: f64,
}

impl Process {
    /// This process now.
    ///
    /// # Errors
    /// Where the system does not tell, or in a way that is not known.
    pub(super) fn now() -> io::Result<Self> {
        let unknown = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{what} is not as it should be"));
        let stat = fs::read_to_string("/proc/self/stat")?;
        let ticks = clock_ticks_per_second() as f64;
        let boot = fs::read_to_string("/proc/stat")?;
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok());
        let boot = boot.ok_or_else(|| unknown("btime of /proc/stat"))?;
        let Stat { user, system, threads, start, virtual_bytes, resident_pages } =
            Stat::parse(&stat).ok_or_else(|| unknown("/proc/self/stat"))?;
        // Among them is the one by which they are looked at.
        let open_fds = fs::read_dir("/proc/self/fd")?.count().saturating_sub(1);
        Ok(Self {
            resident_bytes: resident_pages.saturating_mul(page_size() as u64),
            virtual_bytes,
            open_fds,
            max_fds: getrlimit(Resource::Nofile).current,
            cpu_seconds: (user + system) as f64 / ticks,
            threads,
            started_at: boot as f64 + start as f64 / ticks,
        })
    }
}

/// What is used of proc(5)'s `stat`. Times are in ticks, the start's since the system's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    user: u64,
    system: u64,
    threads: u64,
    start: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name, whatever that holds.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<_> = rest.split_whitespace().collect();
        // As proc(5) numbers them.
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self {
            user: field(14)?,
            system: field(15)?,
            threads: field(20)?,
            start: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_name_may_look_like_fields() {
        let fields = (3..60).map(|number| number.to_string()).collect::<Vec<_>>().join(" ");
        let expected = Stat { user: 14, system: 15, threads: 20, start: 22, virtual_bytes: 23, resident_pages: 24 };
        for name in ["millstream", "a) 1 2 (b", "()"] {
            assert_eq!(Stat::parse(&format!("7 ({name}) {fields}\n")), Some(expected), "{name}");
        }
        for text in ["", "7 (x", "7 (x) S 1 2", "7 (x) S a b c d e f g h i j k l m n o p q r s t u v"] {
            assert_eq!(Stat::parse(text), None, "{text}");
        }
    }

    #[test]
    fn this_process_is_told_as_it_is() {
        let before = Process::now().unwrap();
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
        let now = Process::now().unwrap();
        // Other tests open and close some at the same time.
        assert!(now.open_fds >= files.len() && now.max_fds.is_none_or(|max| now.open_fds as u64 <= max), "{now:?}");
        assert!(now.resident_bytes > 1 << 20 && now.resident_bytes < now.virtual_bytes, "{now:?}");
        assert!(now.cpu_seconds >= before.cpu_seconds && now.threads >= 1, "{now:?}");
        let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        // The clock may have been set since the system was started, but hardly by a year.
        assert!((age - now.started_at).abs() < 365.0 * 86_400.0, "{now:?}");
    }
}
