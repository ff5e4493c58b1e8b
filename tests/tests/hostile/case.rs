//! Hostile scripts as data. A file of `cases/` holds many, each under a line that says how it must
//! end: `//# name: end or end; option; option=value`.
//!
//! An end is an outcome's short name; `late` before it says that the client had a response already.
//! What stands below is the handler's statements, or a whole module when it exports or listens.
//! A case that ends `ok` answers `survived`, or what went wrong.

use std::time::Duration;

use atoll_tests::Script;

/// How an invocation is known to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    Exception,
    Cpu,
    Memory,
    Wall,
    Canceled,
    Overloaded,
}

const OUTCOMES: [Outcome; 7] = [
    Outcome::Ok,
    Outcome::Exception,
    Outcome::Cpu,
    Outcome::Memory,
    Outcome::Wall,
    Outcome::Canceled,
    Outcome::Overloaded,
];

impl Outcome {
    /// The label of the metric.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Exception => "exception",
            Self::Cpu => "exceeded-cpu",
            Self::Memory => "exceeded-memory",
            Self::Wall => "exceeded-wall",
            Self::Canceled => "canceled",
            Self::Overloaded => "overloaded",
        }
    }

    fn short(self) -> &'static str {
        self.label().trim_start_matches("exceeded-")
    }

    /// Status and code of its page.
    pub(crate) fn page(self) -> (u16, u64) {
        match self {
            Self::Ok | Self::Canceled => (200, 0),
            Self::Exception => (500, 1101),
            Self::Cpu | Self::Memory => (503, 1102),
            Self::Wall => (504, 1102),
            Self::Overloaded => (503, 1200),
        }
    }
}

/// One documented way for a case to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) outcome: Outcome,
    /// The client had the head of a response before.
    pub(crate) late: bool,
}

/// How a case is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visit {
    /// A GET, read to the end.
    Get,
    /// A POST of so many bytes.
    Post(usize),
    /// A POST that announces so many bytes and sends half of them.
    Half(usize),
    /// A GET whose client takes so many pieces of the body and leaves.
    Leave(usize),
    /// A GET whose client reads nothing for so long and leaves.
    Idle(Duration),
}

/// One hostile script.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) ends: Vec<End>,
    pub(crate) visit: Visit,
    /// The upload is refused with a message that has this.
    pub(crate) refused: Option<String>,
    /// It calls itself: which of its calls ends how is a matter of luck.
    pub(crate) many: bool,
    /// Why the case cannot pass yet.
    pub(crate) failing: Option<String>,
    source: String,
}

impl Case {
    /// The cases of a file.
    pub(crate) fn all(file: &str) -> Vec<Self> {
        file.split("\n//# ").skip(1).map(Self::parse).collect()
    }

    fn parse(text: &str) -> Self {
        let (head, source) = text.split_once('\n').unwrap_or((text, ""));
        let (name, rest) = head.split_once(": ").unwrap_or_else(|| panic!("no ends: {head}"));
        let mut words = rest.split("; ");
        let ends = words.next().unwrap_or_default();
        let refused = ends.strip_prefix("refused ").map(str::to_owned);
        let ends = if refused.is_some() { vec![] } else { ends.split(" or ").map(end).collect() };
        let mut case = Self {
            name: name.to_owned(),
            ends,
            visit: Visit::Get,
            refused,
            many: false,
            failing: None,
            source: source.to_owned(),
        };
        for option in words {
            let (key, value) = option.split_once('=').unwrap_or((option, "0"));
            let number = || value.parse::<usize>().unwrap_or_else(|_| panic!("{head}: {value}"));
            match key {
                "post" => case.visit = Visit::Post(number()),
                "half" => case.visit = Visit::Half(number()),
                "leave" => case.visit = Visit::Leave(number()),
                "idle" => case.visit = Visit::Idle(Duration::from_millis(number() as u64)),
                "many" => case.many = true,
                "failing" => case.failing = Some(value.to_owned()),
                _ => panic!("{head}: unknown option {key}"),
            }
        }
        case
    }

    /// The script: it answers `/ok` with `ok` whatever else it does.
    pub(crate) fn script(&self) -> Script {
        let source = &self.source;
        if source.contains("addEventListener('fetch'") {
            return Script::service_worker(source.clone());
        }
        if self.refused.is_some() || source.contains("export default") {
            return Script::module(source.clone());
        }
        Script::module(format!(
            "const kept = [];\n\
             export default {{ async fetch(request, env, ctx) {{\n\
             if (request.url.endsWith('/ok')) return new Response('ok');\n\
             {source}\n\
             return new Response('survived');\n}} }};"
        ))
    }
}

fn end(text: &str) -> End {
    let (late, name) = match text.strip_prefix("late ") {
        Some(name) => (true, name),
        None => (false, text),
    };
    let outcome = OUTCOMES.into_iter().find(|outcome| outcome.short() == name);
    End { outcome: outcome.unwrap_or_else(|| panic!("no outcome {name}")), late }
}
