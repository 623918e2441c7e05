use super::*;

#[test]
fn a_path_with_nul_is_refused_before_the_call() {
    let error = obj_get(Path::new("/sys/fs/bpf/a\0b")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_name_of_16_bytes_is_refused() {
    let spec = ProgramSpec {
        prog_type: PROG_TYPE_CGROUP_SOCK_ADDR,
        attach_type: 10,
        name: "0123456789abcdef",
        instructions: &RETURN_ONE,
    };
    assert_eq!(prog_load(&spec, None).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_file_is_no_bpf_object() {
    let file = std::fs::File::open("/proc/self/status").unwrap();
    assert_eq!(object_kind(file.as_fd()).unwrap(), None);
    assert_eq!(link_info(file.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn attributes_have_the_kernels_layout() {
    assert_eq!(std::mem::offset_of!(LoadAttr, expected_attach_type), 68);
    assert_eq!(std::mem::offset_of!(QueryAttr, prog_cnt), 24);
    assert_eq!(size_of::<ObjectAttr>(), 16);
    assert_eq!(size_of::<InfoAttr>(), 16);
}
