//! A classic BPF program: checked when it is made, then run over bytes without a panic, whatever they are.
//!
//! The machine is that of the BSD packet filter (S. McCanne, V. Jacobson: The BSD Packet Filter, 1993; Linux:
//! Documentation/networking/filter.rst): an accumulator, an index register, 16 words of memory, jumps forward only. A load
//! outside of the packet ends the program with 0, which leaves the frame out.

/// As the kernel has it (BPF_MAXINSNS).
pub(super) const INSTRUCTIONS_MAX: usize = 4096;
const MEMORY_WORDS: u32 = 16;

/// One instruction, as the kernel's `sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub jump_true: u8,
    pub jump_false: u8,
    pub k: u32,
}

/// Why instructions are no program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a program has 1 to {INSTRUCTIONS_MAX} instructions, this one {0}")]
    Length(usize),
    #[error("instruction {0} is unknown")]
    Unknown(usize),
    #[error("instruction {0} jumps out of the program")]
    Jump(usize),
    #[error("instruction {0} divides by zero")]
    DivisionByZero(usize),
    #[error("instruction {0} uses memory that there is not")]
    Memory(usize),
    #[error("the last instruction does not return")]
    NoReturn,
}

/// A program that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program(Vec<Instruction>);

// Classes.
pub(super) const LD: u16 = 0x00;
pub(super) const LDX: u16 = 0x01;
const ST: u16 = 0x02;
const STX: u16 = 0x03;
const ALU: u16 = 0x04;
pub(super) const JMP: u16 = 0x05;
pub(super) const RET: u16 = 0x06;
const MISC: u16 = 0x07;
// Sizes and modes of loads.
pub(super) const W: u16 = 0x00;
pub(super) const H: u16 = 0x08;
pub(super) const B: u16 = 0x10;
const IMM: u16 = 0x00;
pub(super) const ABS: u16 = 0x20;
pub(super) const IND: u16 = 0x40;
const MEM: u16 = 0x60;
const LEN: u16 = 0x80;
pub(super) const MSH: u16 = 0xa0;
// Operations.
const ADD: u16 = 0x00;
const SUB: u16 = 0x10;
const MUL: u16 = 0x20;
const DIV: u16 = 0x30;
const OR: u16 = 0x40;
const AND: u16 = 0x50;
const LSH: u16 = 0x60;
const RSH: u16 = 0x70;
const NEG: u16 = 0x80;
const MOD: u16 = 0x90;
const XOR: u16 = 0xa0;
pub(super) const JA: u16 = 0x00;
pub(super) const JEQ: u16 = 0x10;
const JGT: u16 = 0x20;
const JGE: u16 = 0x30;
pub(super) const JSET: u16 = 0x40;
// Operands.
pub(super) const K: u16 = 0x00;
const X: u16 = 0x08;
const A: u16 = 0x10;
const TAX: u16 = 0x00;
const TXA: u16 = 0x80;

const CLASS: u16 = 0x07;
const OPERATION: u16 = 0xf0;

impl Program {
    /// # Errors
    /// When it is no program.
    pub fn new(instructions: Vec<Instruction>) -> Result<Program, Malformed> {
        if !(1..=INSTRUCTIONS_MAX).contains(&instructions.len()) {
            return Err(Malformed::Length(instructions.len()));
        }
        for (at, instruction) in instructions.iter().enumerate() {
            check(at, instruction, instructions.len())?;
        }
        match instructions.last() {
            Some(last) if last.code & CLASS == RET => Ok(Program(instructions)),
            _ => Err(Malformed::NoReturn),
        }
    }

    pub fn instructions(&self) -> &[Instruction] {
        &self.0
    }

    /// The same program, which keeps `bytes` of what it lets pass.
    #[must_use]
    pub(crate) fn keeping(mut self, bytes: u32) -> Program {
        for instruction in &mut self.0 {
            if instruction.code == RET | K && instruction.k != 0 {
                instruction.k = bytes;
            }
        }
        self
    }

    /// How many bytes of the packet it keeps; 0: it leaves it out. `wire_len` is its length, of which `data` may be a part.
    #[inline]
    pub fn run(&self, data: &[u8], wire_len: u32) -> u32 {
        let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; MEMORY_WORDS as usize]);
        let mut at = 0;
        // Jumps go forward only: every instruction is run at most once.
        while let Some(&Instruction { code, jump_true, jump_false, k }) = self.0.get(at) {
            at += 1;
            let operand = if code & X == X { x } else { k };
            match code & CLASS {
                LD | LDX => {
                    let value = match code & !CLASS {
                        mode if mode == IMM | W => Some(k),
                        mode if mode == MEM => Some(memory[k as usize]),
                        mode if mode == LEN => Some(wire_len),
                        mode if mode == MSH | B => byte(data, k).map(|byte| u32::from(byte & 0xf) * 4),
                        mode if mode == ABS | W => word(data, k),
                        mode if mode == ABS | H => half(data, k),
                        mode if mode == ABS | B => byte(data, k).map(u32::from),
                        mode if mode == IND | W => x.checked_add(k).and_then(|at| word(data, at)),
                        mode if mode == IND | H => x.checked_add(k).and_then(|at| half(data, at)),
                        mode if mode == IND | B => {
                            x.checked_add(k).and_then(|at| byte(data, at)).map(u32::from)
                        }
                        _ => None,
                    };
                    let Some(value) = value else { return 0 };
                    *(if code & CLASS == LD { &mut a } else { &mut x }) = value;
                }
                ST => memory[k as usize] = a,
                STX => memory[k as usize] = x,
                ALU => {
                    let result = match code & OPERATION {
                        ADD => Some(a.wrapping_add(operand)),
                        SUB => Some(a.wrapping_sub(operand)),
                        MUL => Some(a.wrapping_mul(operand)),
                        DIV => a.checked_div(operand),
                        MOD => a.checked_rem(operand),
                        OR => Some(a | operand),
                        AND => Some(a & operand),
                        XOR => Some(a ^ operand),
                        LSH => Some(a.checked_shl(operand).unwrap_or(0)),
                        RSH => Some(a.checked_shr(operand).unwrap_or(0)),
                        NEG => Some(a.wrapping_neg()),
                        _ => None,
                    };
                    let Some(result) = result else { return 0 };
                    a = result;
                }
                JMP if code & OPERATION == JA => at = at.saturating_add(k as usize),
                JMP => {
                    let holds = match code & OPERATION {
                        JEQ => a == operand,
                        JGT => a > operand,
                        JGE => a >= operand,
                        _ => a & operand != 0,
                    };
                    at += usize::from(if holds { jump_true } else { jump_false });
                }
                RET => return if code & 0x18 == A { a } else { k },
                _ if code & 0xf8 == TXA => a = x,
                _ => x = a,
            }
        }
        0
    }
}

fn check(at: usize, instruction: &Instruction, length: usize) -> Result<(), Malformed> {
    let Instruction { code, jump_true, jump_false, k } = *instruction;
    let inside = |jump: usize| at.saturating_add(1).saturating_add(jump) < length;
    let known = match code & CLASS {
        LD => {
            let mode = code & !CLASS;
            [IMM | W, MEM, LEN, ABS | W, ABS | H, ABS | B, IND | W, IND | H, IND | B].contains(&mode)
        }
        LDX => [IMM | W, MEM, LEN, MSH | B].contains(&(code & !CLASS)),
        ST => code == ST,
        STX => code == STX,
        ALU => {
            let operations = [ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, MOD, XOR];
            code <= 0xff && operations.contains(&(code & OPERATION))
        }
        JMP => code <= 0xff && [JA, JEQ, JGT, JGE, JSET].contains(&(code & OPERATION)),
        RET => [RET | K, RET | A].contains(&code),
        MISC => [MISC | TAX, MISC | TXA].contains(&code),
        _ => false,
    };
    if !known {
        return Err(Malformed::Unknown(at));
    }
    let uses_memory = match code & CLASS {
        LD | LDX => code & !CLASS == MEM,
        ST | STX => true,
        _ => false,
    };
    if uses_memory && k >= MEMORY_WORDS {
        return Err(Malformed::Memory(at));
    }
    match code & CLASS {
        ALU if code & X == K && k == 0 && [DIV, MOD].contains(&(code & OPERATION)) => {
            Err(Malformed::DivisionByZero(at))
        }
        JMP if code & OPERATION == JA => inside(k as usize).then_some(()).ok_or(Malformed::Jump(at)),
        JMP => {
            let both = inside(jump_true.into()) && inside(jump_false.into());
            both.then_some(()).ok_or(Malformed::Jump(at))
        }
        _ => Ok(()),
    }
}

fn bytes<const N: usize>(data: &[u8], at: u32) -> Option<[u8; N]> {
    data.get(at as usize..)?.first_chunk().copied()
}

#[inline]
fn word(data: &[u8], at: u32) -> Option<u32> {
    bytes(data, at).map(u32::from_be_bytes)
}

#[inline]
fn half(data: &[u8], at: u32) -> Option<u32> {
    bytes(data, at).map(u16::from_be_bytes).map(u32::from)
}

#[inline]
fn byte(data: &[u8], at: u32) -> Option<u8> {
    data.get(at as usize).copied()
}
