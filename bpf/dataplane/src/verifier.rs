//! What the verifiers of older kernels refuse, looked for in the objects as they are compiled: no such kernel runs the tests.
//!
//! Nothing but tests. They follow every way through a program, also those that a verifier excludes by values. What they do not look
//! at: keys and buffers that a helper reads, and what a function reads of its caller's frame.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use aya_obj::{Object, generated::bpf_insn};

use crate::{loader, proxy};

/// Opcodes (RFC 9669).
mod code {
    /// A jump.
    pub(super) const JUMP: u8 = 0x05;
    /// One with a far target, which nothing here knows how to follow.
    pub(super) const JUMP_FAR: u8 = 0x06;
    /// A call.
    pub(super) const CALL: u8 = 0x85;
    /// A call by register, which nothing here knows how to follow.
    pub(super) const CALL_REGISTER: u8 = 0x8d;
    /// The end.
    pub(super) const EXIT: u8 = 0x95;
    /// The load that takes two instructions' room.
    pub(super) const WIDE: u8 = 0x18;
    /// 64-bit addition of a number.
    pub(super) const ADD: u8 = 0x07;
    /// Assignment of a register.
    pub(super) const MOVE: u8 = 0xbf;
    /// Assignments of a number, of 64 and of 32 bits.
    pub(super) const SET: u8 = 0xb7;
    /// See [`SET`].
    pub(super) const SET_32: u8 = 0xb4;
}

/// The helpers `bpf_spin_lock` and `bpf_spin_unlock`.
const LOCK: i32 = 93;
/// See [`LOCK`].
const UNLOCK: i32 = 94;
/// Source register of a call of a function of the same program; 0 is a helper's.
const OWN: u8 = 1;
/// The register with the address of the frame's end, and the frame's size.
const FRAME: u8 = 10;
/// See [`FRAME`].
const FRAME_SIZE: i32 = 512;

/// Programs by name, each with the functions that it calls behind its own instructions.
fn programs(object: &[u8]) -> BTreeMap<String, Vec<bpf_insn>> {
    let mut object = Object::parse(object).unwrap();
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&sections).unwrap();
    let functions = &object.functions;
    let code = |(name, program): (&String, &aya_obj::Program)| {
        (name.clone(), functions[&program.function_key()].instructions.clone())
    };
    object.programs.iter().map(code).collect()
}

fn all_programs() -> BTreeMap<String, Vec<bpf_insn>> {
    [loader::OBJECT, proxy::OBJECT].into_iter().flat_map(programs).collect()
}

/// The function that is called here, by its first instruction.
fn callee(code: &[bpf_insn], at: usize) -> Option<usize> {
    let instruction = &code[at];
    (instruction.code == code::CALL && instruction.src_reg() == OWN)
        .then(|| (at + 1).checked_add_signed(instruction.imm as isize).unwrap())
}

/// What may come after an instruction, in the same function.
fn next(code: &[bpf_insn], at: usize) -> Vec<usize> {
    let instruction = &code[at];
    let target = || (at + 1).checked_add_signed(instruction.off.into()).unwrap();
    match instruction.code {
        code::EXIT => vec![],
        code::JUMP => vec![target()],
        code::CALL => vec![at + 1],
        code::WIDE => vec![at + 2],
        code::JUMP_FAR | code::CALL_REGISTER => panic!("{at}: cannot be followed"),
        // Classes of jumps by 64 and by 32 bits.
        jump if matches!(jump & 7, 5 | 6) => vec![at + 1, target()],
        _ => vec![at + 1],
    }
}

/// First instructions of a program's functions.
fn functions(code: &[bpf_insn]) -> BTreeSet<usize> {
    let called = (0..code.len()).filter(|at| *at == 0 || code[at - 1].code != code::WIDE);
    [0].into_iter().chain(called.filter_map(|at| callee(code, at))).collect()
}

/// Every instruction of a function, with what is known there: `step` says what an instruction makes of it, `join` keeps what two ways
/// have in common and says whether that is less.
fn follow<T: Clone>(
    code: &[bpf_insn],
    start: usize,
    first: T,
    step: impl Fn(usize, &mut T),
    join: impl Fn(&mut T, &T) -> bool,
) -> BTreeMap<usize, T> {
    let mut known = BTreeMap::from([(start, first)]);
    let mut open = vec![start];
    while let Some(at) = open.pop() {
        let mut state = known[&at].clone();
        step(at, &mut state);
        for to in next(code, at) {
            let is_less = match known.get_mut(&to) {
                Some(there) => join(there, &state),
                None => known.insert(to, state.clone()).is_none(),
            };
            if is_less {
                open.push(to);
            }
        }
    }
    known
}

/// Before Linux 6.9 nothing may be called under a lock; no kernel takes a second one, or ends with one.
#[test]
fn locks_are_held_for_nothing_but_loads_and_stores() {
    let mut takers = BTreeSet::new();
    for (name, code) in all_programs() {
        for start in functions(&code) {
            // Whether it may be held, and whether it may be free.
            let step = |at: usize, [held, free]: &mut [bool; 2]| {
                let instruction = &code[at];
                let is_end = instruction.code == code::EXIT;
                let is_call = instruction.code == code::CALL;
                let helper = (is_call && instruction.src_reg() == 0).then_some(instruction.imm);
                assert!(!*held || helper == Some(UNLOCK) || !is_end && !is_call, "{name}: {at} under a lock");
                assert!(!*free || helper != Some(UNLOCK), "{name}: {at} unlocks what is free");
                match helper {
                    Some(LOCK) => [*held, *free] = [true, false],
                    Some(UNLOCK) => [*held, *free] = [false, true],
                    _ => {}
                }
            };
            let join = |there: &mut [bool; 2], other: &[bool; 2]| {
                let before = *there;
                *there = [before[0] || other[0], before[1] || other[1]];
                *there != before
            };
            let known = follow(&code, start, [false, true], step, join);
            if known.values().any(|[held, _]| *held) {
                takers.insert(name.clone());
            }
        }
    }
    assert_eq!(takers, ["recvmsg4", "recvmsg6", "sendmsg4", "sendmsg6"].map(str::to_owned).into());
}

/// What a register holds.
#[derive(Clone, Copy, PartialEq)]
enum Value {
    /// An address of the frame, from its end.
    Frame(i32),
    Number(i32),
}

/// What is known of a frame: values of registers, and which of its bytes are written.
#[derive(Clone, PartialEq)]
struct Frame {
    registers: [Option<Value>; 11],
    written: Vec<bool>,
}

impl Frame {
    fn new() -> Self {
        let mut registers = [None; 11];
        registers[usize::from(FRAME)] = Some(Value::Frame(0));
        Self { registers, written: vec![false; FRAME_SIZE as usize] }
    }

    fn step(&mut self, instruction: &bpf_insn) {
        let destination = usize::from(instruction.dst_reg());
        match instruction.code {
            code::MOVE => self.registers[destination] = self.registers[usize::from(instruction.src_reg())],
            code::SET | code::SET_32 => self.registers[destination] = Some(Value::Number(instruction.imm)),
            code::ADD => {
                self.registers[destination] = self.registers[destination].and_then(|value| match value {
                    Value::Frame(at) => Some(Value::Frame(at + instruction.imm)),
                    Value::Number(_) => None,
                });
            }
            code::CALL if instruction.src_reg() != 0 => self.registers[..6].fill(None),
            code::CALL => {
                // An address and a size: that much of the frame is read, or written.
                for pair in 1..5 {
                    if let [Some(Value::Frame(at)), Some(Value::Number(size))] =
                        self.registers[pair..pair + 2]
                    {
                        self.written[bytes(at, size)].fill(true);
                    }
                }
                // r6 to r9 are left alone.
                self.registers[..6].fill(None);
            }
            // Loads and arithmetic change the destination; stores and jumps do not.
            other if matches!(other & 7, 0 | 1 | 4 | 7) => self.registers[destination] = None,
            _ => {}
        }
        if let Some(bytes) = self.bytes(instruction, &[2, 3]) {
            self.written[bytes].fill(true);
        }
    }

    /// The bytes of the frame that a load or a store of these classes means.
    fn bytes(&self, instruction: &bpf_insn, classes: &[u8]) -> Option<Range<usize>> {
        /// Mode of plain memory.
        const MEMORY: u8 = 0x60;
        if !classes.contains(&(instruction.code & 7)) || instruction.code & 0xe0 != MEMORY {
            return None;
        }
        let pointer = if classes == [1] { instruction.src_reg() } else { instruction.dst_reg() };
        let size = [4, 2, 1, 8][usize::from(instruction.code >> 3 & 3)];
        match self.registers[usize::from(pointer)]? {
            Value::Frame(at) => Some(bytes(at + i32::from(instruction.off), size)),
            Value::Number(_) => None,
        }
    }

    fn join(&mut self, other: &Self) -> bool {
        let before = self.clone();
        for (here, there) in self.registers.iter_mut().zip(&other.registers) {
            *here = here.filter(|_| here == there);
        }
        for (here, there) in self.written.iter_mut().zip(&other.written) {
            *here &= there;
        }
        *self != before
    }
}

/// Bytes of the frame by their index.
fn bytes(at: i32, size: i32) -> Range<usize> {
    let at = usize::try_from(at + FRAME_SIZE).unwrap();
    at..at + usize::try_from(size).unwrap()
}

/// Before Linux 6.3 nothing may be read from a frame that no way there has written.
#[test]
fn nothing_unset_is_read_from_a_frame() {
    for (name, code) in all_programs() {
        for start in functions(&code) {
            let known = follow(&code, start, Frame::new(), |at, frame| frame.step(&code[at]), Frame::join);
            for (at, frame) in &known {
                let read = frame.bytes(&code[*at], &[1]);
                assert!(
                    read.is_none_or(|bytes| frame.written[bytes].iter().all(|set| *set)),
                    "{name}: {at}, of the function at {start}"
                );
            }
        }
    }
}

/// The frames of a function and of what it calls, as kernels before 6.8 add them up: each in steps of 32 bytes.
fn depth(code: &[bpf_insn], start: usize) -> i32 {
    let known = follow(code, start, Frame::new(), |at, frame| frame.step(&code[at]), Frame::join);
    let (mut lowest, mut below) = (0, 0);
    for (at, frame) in &known {
        let pointed = frame.registers.iter().filter_map(|value| match value {
            Some(Value::Frame(at)) => Some(*at),
            _ => None,
        });
        let touched = frame.bytes(&code[*at], &[1]).or_else(|| frame.bytes(&code[*at], &[2, 3]));
        let touched = touched.map(|bytes| bytes.start as i32 - FRAME_SIZE);
        lowest = pointed.chain(touched).fold(lowest, i32::min);
        below = callee(code, *at).map_or(below, |callee| below.max(depth(code, callee)));
    }
    ((-lowest).max(1) + 31) / 32 * 32 + below
}

#[test]
fn frames_fit_also_where_kernels_round_them_up() {
    let depths: BTreeMap<_, _> =
        all_programs().into_iter().map(|(name, code)| (name, depth(&code, 0))).collect();
    assert!(depths.values().all(|depth| (1..=FRAME_SIZE).contains(depth)), "{depths:?}");
}

/// Functions that the compiler calls by itself.
fn is_of_language(name: &str) -> bool {
    name.starts_with("mem") || name.starts_with("__") || name == "bcmp"
}

/// They fill and copy byte by byte, which costs more than what they are called for.
#[test]
fn no_program_calls_functions_of_the_language() {
    let text = |code: &[bpf_insn]| -> Vec<_> {
        code.iter().map(|one| (one.code, one.dst_reg(), one.src_reg(), one.off, one.imm)).collect()
    };
    for object in [loader::OBJECT, proxy::OBJECT] {
        let parsed = Object::parse(object).unwrap();
        let language: Vec<_> = parsed.functions.values().filter(|one| is_of_language(&one.name)).collect();
        for (name, code) in programs(object) {
            for start in functions(&code) {
                let called =
                    language.iter().find(|one| text(&code[start..]).starts_with(&text(&one.instructions)));
                assert!(called.is_none(), "{name} calls {}", called.unwrap().name);
            }
        }
    }
}
