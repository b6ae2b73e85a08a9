//! PURE. Says where in a file something is wrong.

/// `line 7: what`, and that line, for what begins at `offset` in `text`.
pub fn say(text: &str, offset: usize, what: &str) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count();
    let written = text.lines().nth(line).unwrap_or_default().trim();
    format!("line {}: {what}\n  {written}", line + 1)
}

#[cfg(test)]
mod tests {
    use super::say;

    #[test]
    fn the_line_is_the_one_that_holds_the_offset() {
        let text = "a = 1\n b = 2\nc";
        assert_eq!(say(text, 0, "x"), "line 1: x\n  a = 1");
        assert_eq!(say(text, 8, "x"), "line 2: x\n  b = 2");
        assert_eq!(say(text, 13, "x"), "line 3: x\n  c");
        assert_eq!(say("ä", 1, "x"), "line 1: x\n  ä", "inside a character");
    }
}
