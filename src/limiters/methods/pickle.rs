//! Parses Python's pickle of a list of floats by its opcodes. Nothing is executed: any opcode that such a list does not need is
//! an error.

/// The floats of the list, if `text` is such a pickle and nothing else.
pub(super) fn floats(text: &[u8]) -> Option<Vec<f64>> {
    let mut floats = Vec::new();
    let mut rest = text;
    let mut lists = 0;
    loop {
        let (opcode, tail) = rest.split_first()?;
        rest = tail;
        match opcode {
            // PROTO, and BINPUT of older protocols
            0x80 | b'q' => rest = rest.get(1..)?,
            // FRAME
            0x95 => rest = rest.get(8..)?,
            // EMPTY_LIST
            b']' => lists += 1,
            // MEMOIZE, MARK, APPEND, APPENDS
            0x94 | b'(' | b'a' | b'e' => {}
            // LONG_BINPUT
            b'r' => rest = rest.get(4..)?,
            // BINFLOAT
            b'G' => {
                let (bytes, tail) = rest.split_first_chunk::<8>()?;
                let float = f64::from_be_bytes(*bytes);
                if !float.is_finite() {
                    return None;
                }
                floats.push(float);
                rest = tail;
            }
            // STOP
            b'.' => return (lists == 1 && rest.is_empty()).then_some(floats),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_floats_is_read_and_nothing_else() {
        // pickle.dumps([2.0, 1.0]) and pickle.dumps([]), protocol 4, and pickle.dumps([1.0], 2)
        let two = b"\x80\x04\x95\x17\0\0\0\0\0\0\0]\x94(G@\0\0\0\0\0\0\0G?\xf0\0\0\0\0\0\0e.";
        assert_eq!(floats(two), Some(vec![2.0, 1.0]));
        assert_eq!(floats(b"\x80\x04]\x94."), Some(Vec::new()));
        assert_eq!(floats(b"\x80\x02]q\0G?\xf0\0\0\0\0\0\0a."), Some(vec![1.0]));
        for text in [
            &b""[..],
            b".",
            b"\x80\x04",
            b"\x80\x04].x",
            // os.system
            b"cos\nsystem\n(S'true'\ntR.",
            b"\x80\x04]\x94G\x7f\xf8\0\0\0\0\0\0a.",
            b"\x80\x04]\x94G?\xf0\0",
        ] {
            assert_eq!(floats(text), None, "{text:?}");
        }
    }
}
