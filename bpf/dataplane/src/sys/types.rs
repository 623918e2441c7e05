//! What the calls take and give, in plain types.

/// What a BPF file descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// A map.
    Map,
    /// A program.
    Program,
    /// A link.
    Link,
}

/// State of a cgroup link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Id of the link.
    pub id: u32,
    /// Id of the program that runs now.
    pub prog_id: u32,
    /// Inode of the cgroup's directory; 0 once the cgroup is gone.
    pub cgroup_id: u64,
    /// `enum bpf_attach_type`.
    pub attach_type: u32,
}

/// Identity of a loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgInfo {
    /// `enum bpf_prog_type`.
    pub prog_type: u32,
    /// Id of the program, unique while it is loaded.
    pub id: u32,
    /// Hash of the instructions, the same for the same program loaded twice.
    pub tag: [u8; 8],
    /// Instructions of 8 bytes after the verifier's rewriting; 0 for those who may not see them.
    pub instructions: u32,
    /// Name, at most 15 bytes.
    pub name: String,
}

/// Shape of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// `enum bpf_map_type`.
    pub map_type: u32,
    /// Id of the map, unique while it exists.
    pub id: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Capacity.
    pub max_entries: u32,
    /// `BPF_F_*` flags of its creation.
    pub flags: u32,
    /// Name, at most 15 bytes.
    pub name: String,
}

/// Programs attached to a cgroup itself, not those of its ancestors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// 0 = exclusive, 1 = `BPF_F_ALLOW_OVERRIDE`, 2 = `BPF_F_ALLOW_MULTI` (also every link).
    pub flags: u32,
    /// Ids of the programs in the order in which they run; at most 64.
    pub programs: Vec<u32>,
}

/// A few instructions for the verifier: a probe or a test program.
#[derive(Clone, Copy, Debug)]
pub struct ProgramSpec<'a> {
    /// `enum bpf_prog_type`.
    pub prog_type: u32,
    /// `enum bpf_attach_type` the program is checked for.
    pub attach_type: u32,
    /// At most 15 bytes, letters, digits, `_` and `.`.
    pub name: &'a str,
    /// Instructions as the kernel reads them, 8 bytes each.
    pub instructions: &'a [u64],
}
