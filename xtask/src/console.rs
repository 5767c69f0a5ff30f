//! The wire that several consoles share, taken apart again ([`hyp_abi::console`]), and the records on it.

use hyp_abi::console::{CHANNEL_BASE, ESCAPE, GUEST_TAG, HOST_TAG, RECORD_TAG, UMBRA};

/// The host partition's channel: VM 0.
pub(crate) const HOST: u8 = 1;

/// Splits the wire into channels.
///
/// Starts on Umbra's own channel. An escape at the end of one piece of input is remembered for the next.
#[derive(Debug, Default)]
pub(crate) struct Demux {
    channel: u8,
    escaped: bool,
}

impl Demux {
    /// A wire at its beginning.
    pub(crate) const fn new() -> Self {
        Self {
            channel: UMBRA,
            escaped: false,
        }
    }

    /// Takes a piece of the wire and gives each byte with its channel to `sink`.
    pub(crate) fn feed(&mut self, input: &[u8], mut sink: impl FnMut(u8, u8)) {
        for &byte in input {
            match (self.escaped, byte) {
                (false, ESCAPE) => self.escaped = true,
                (false, _) => sink(self.channel, byte),
                (true, ESCAPE) => {
                    self.escaped = false;
                    sink(self.channel, ESCAPE);
                }
                (true, _) => {
                    self.escaped = false;
                    // A letter that names no channel comes from a wire that is damaged: keep the channel and lose the byte.
                    if let Some(channel) = byte
                        .checked_sub(CHANNEL_BASE)
                        .filter(|c| usize::from(*c) <= hyp_abi::layout::MAX_VMS)
                    {
                        self.channel = channel;
                    }
                }
            }
        }
    }
}

/// Whose record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Umbra itself.
    Umbra,
    /// The host partition's program.
    Host,
    /// A guest.
    Guest,
}

/// One record: a kind (may be empty), then `key=value` pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The channel it came on.
    pub(crate) channel: u8,
    /// Whose it is.
    pub(crate) source: Source,
    /// What it is, such as `verdict`.
    pub(crate) kind: String,
    fields: Vec<(String, String)>,
}

impl Record {
    /// Reads `line` from `channel` as a record. A tag counts on its own channel only: what a guest prints is never
    /// Umbra's word.
    pub(crate) fn parse(channel: u8, line: &str) -> Option<Self> {
        let (source, tag) = match channel {
            UMBRA => (Source::Umbra, RECORD_TAG),
            HOST => (Source::Host, HOST_TAG),
            _ => (Source::Guest, GUEST_TAG),
        };
        let mut kind = "";
        let mut fields = Vec::new();
        for (i, word) in line.strip_prefix(tag)?.split_ascii_whitespace().enumerate() {
            match word.split_once('=') {
                Some((key, value)) => fields.push((key.to_owned(), value.to_owned())),
                None if i == 0 => kind = word,
                None => {}
            }
        }
        Some(Self {
            channel,
            source,
            kind: kind.to_owned(),
            fields,
        })
    }

    /// The text of a field.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The number in a field, decimal or `0x`.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        let text = self.text(key)?;
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        }
    }

    /// Every field, in order.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

/// The most that is kept of one channel, so that a guest that never stops printing does not fill our memory.
const KEPT: usize = 8 << 20;
/// The most records that are kept.
const RECORDS: usize = 100_000;

/// Everything the consoles said, by channel.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    partial: Vec<Vec<u8>>,
    lines: Vec<Vec<String>>,
    kept: Vec<usize>,
    /// Every record, in order.
    pub(crate) records: Vec<Record>,
}

/// A finished line, as [`Transcript::push`] reports it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Where it came from.
    pub(crate) channel: u8,
    /// What it says, without its line end.
    pub(crate) text: String,
    /// Whether it was a record.
    pub(crate) record: bool,
}

impl Transcript {
    /// Adds one byte; returns the line that it ends.
    pub(crate) fn push(&mut self, channel: u8, byte: u8) -> Option<Line> {
        let at = usize::from(channel);
        if self.partial.len() <= at {
            self.partial.resize(at + 1, Vec::new());
            self.lines.resize(at + 1, Vec::new());
            self.kept.resize(at + 1, 0);
        }
        // A line without an end is cut, so that it cannot grow without bound either.
        if byte != b'\n' {
            self.partial[at].push(byte);
            if self.partial[at].len() < 64 << 10 {
                return None;
            }
        }
        self.finish(channel)
    }

    fn finish(&mut self, channel: u8) -> Option<Line> {
        let at = usize::from(channel);
        let bytes = std::mem::take(self.partial.get_mut(at)?);
        let text = String::from_utf8_lossy(&bytes).trim_end_matches('\r').to_owned();
        let record = Record::parse(channel, &text);
        let is_record = record.is_some();
        if let Some(record) = record
            && self.records.len() < RECORDS
        {
            self.records.push(record);
        }
        if self.kept[at] < KEPT {
            self.kept[at] += text.len() + 32;
            self.lines[at].push(text.clone());
        }
        Some(Line {
            channel,
            text,
            record: is_record,
        })
    }

    /// Ends the line that each channel has begun.
    pub(crate) fn flush(&mut self) -> Vec<Line> {
        let begun: Vec<usize> = (0..self.partial.len()).filter(|&at| !self.partial[at].is_empty()).collect();
        begun.into_iter().filter_map(|at| self.finish(u8::try_from(at).ok()?)).collect()
    }

    /// The lines of a channel.
    pub(crate) fn lines(&self, channel: u8) -> &[String] {
        self.lines.get(usize::from(channel)).map_or(&[], Vec::as_slice)
    }

    /// Why Umbra cannot run, if that is the last it has said.
    pub(crate) fn parked(&self) -> Option<&str> {
        let reason = self.lines(UMBRA).last()?.trim_end().strip_suffix(". Parked.")?;
        Some(&reason[reason.find("Umbra")?..])
    }

    /// Umbra's records of one kind.
    pub(crate) fn umbra(&self, kind: &str) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |r| r.source == Source::Umbra && r.kind == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<(u8, String)> {
        let mut demux = Demux::new();
        let mut out: Vec<(u8, String)> = Vec::new();
        for piece in pieces {
            demux.feed(piece, |channel, byte| match out.last_mut() {
                Some((c, text)) if *c == channel => text.push(char::from(byte)),
                _ => out.push((channel, char::from(byte).to_string())),
            });
        }
        out
    }

    #[test]
    fn text_before_any_escape_is_umbras_own() {
        assert_eq!(split(&[b"hello"]), [(0, "hello".to_owned())]);
    }

    #[test]
    fn channels_switch_and_an_escaped_escape_is_a_byte() {
        let wire = b"a\x0eBguest\x0e\x0emore\x0e@b";
        let expected = [(0, "a".to_owned()), (2, "guest\x0emore".to_owned()), (0, "b".to_owned())];
        assert_eq!(split(&[wire]), expected);
        // Wherever the wire is cut into pieces, the result is the same.
        for cut in 0..wire.len() {
            assert_eq!(split(&[&wire[..cut], &wire[cut..]]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_letter_that_names_no_channel_changes_nothing() {
        assert_eq!(split(&[b"\x0eBx\x0e\xffy\x0e!z"]), [(2, "xyz".to_owned())]);
    }

    #[test]
    fn a_record_counts_on_its_own_channel_only() {
        let line = "@umbra verdict nonce=ab status=0";
        let record = Record::parse(UMBRA, line).expect("a record");
        assert_eq!(
            (record.kind.as_str(), record.text("nonce"), record.number("status")),
            ("verdict", Some("ab"), Some(0))
        );
        assert_eq!(Record::parse(HOST, line), None);
        assert_eq!(Record::parse(2, line), None);
        assert_eq!(Record::parse(2, "@host phase=umbra"), None);
        assert_eq!(Record::parse(2, "@guest cycles=0x10").and_then(|r| r.number("cycles")), Some(16));
    }

    #[test]
    fn transcripts_join_pieces_of_a_line_and_flush_the_last() {
        let mut transcript = Transcript::default();
        let mut lines = Vec::new();
        let mut demux = Demux::new();
        demux.feed(b"\x0eBon\x0e@@umbra boot el=2\r\n\x0eBe\ntail", |c, b| {
            lines.extend(transcript.push(c, b));
        });
        lines.extend(transcript.flush());
        let texts: Vec<_> = lines.iter().map(|l| (l.channel, l.text.as_str(), l.record)).collect();
        assert_eq!(texts, [(0, "@umbra boot el=2", true), (2, "one", false), (2, "tail", false)]);
        assert_eq!(transcript.lines(2), ["one", "tail"]);
        assert_eq!(transcript.umbra("boot").count(), 1);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut transcript = Transcript::default();
        let ends = (0..(200 << 10)).filter(|_| transcript.push(2, b'x').is_some()).count();
        assert_eq!(ends, 3);
    }
}
