//! Generated workers: small APIs of different sizes, each with code and data of its own.

use std::fmt::Write;

use super::random::Random;

/// Sections of a generated API, at most.
const SECTIONS_MAX: usize = 8;
/// Rows of a section's table, at most.
const ROWS_MAX: usize = 24;
/// As many strangers share a server; an account may not have all of its workers.
const WORKERS_OF_ACCOUNT: usize = 100;
const NOUNS: [&str; 8] =
    ["orders", "users", "invoices", "posts", "events", "devices", "tickets", "rooms"];

/// A worker to be deployed, and what it answers to `GET /`.
#[derive(Clone)]
pub(crate) struct Tenant {
    pub(crate) name: String,
    /// The subdomain of the account that owns it.
    pub(crate) account: String,
    pub(crate) source: String,
    pub(crate) answer: String,
}

/// The workers `from` up to `to`, no two of which have the same source.
pub(super) fn small_apis(from: usize, to: usize) -> Vec<Tenant> {
    (from..to).map(small_api).collect()
}

/// Workers that differ in a comment alone.
pub(super) fn copies(count: usize, source: &str, answer: &str) -> Vec<Tenant> {
    let copy = |index| Tenant {
        name: format!("c{index}"),
        account: account(index),
        source: format!("// Copy {index}.\n{source}"),
        answer: answer.to_owned(),
    };
    (0..count).map(copy).collect()
}

/// A router, a class for the errors, and a few sections.
fn small_api(index: usize) -> Tenant {
    let mut random = Random::new(index as u64);
    let name = format!("w{index}");
    let mut source = format!(
        r#"// API {index}.
const routes = [];
const json = (value, status = 200) =>
  new Response(JSON.stringify(value), {{ status, headers: {{ "content-type": "application/json" }} }});

class Problem{index} extends Error {{
  constructor(status, message) {{
    super(message);
    this.status = status;
  }}
  toResponse() {{
    return json({{ error: this.message, worker: "{name}" }}, this.status);
  }}
}}

function route(method, pattern, handler) {{
  routes.push({{ method, pattern: new RegExp(`^${{pattern}}$`), handler }});
}}
"#
    );
    let mut answers = Vec::new();
    for section in 0..=random.below(SECTIONS_MAX) {
        answers.push(push_section(&mut source, index, section, &mut random));
    }
    let summaries: Vec<String> =
        (0..answers.len()).map(|section| format!("table{section}.summary()")).collect();
    let _ = write!(
        source,
        r#"
route("GET", "/", () => json({{ worker: "{name}", sections: [{}] }}));

export default {{
  async fetch(request) {{
    const {{ pathname }} = new URL(request.url);
    try {{
      for (const {{ method, pattern, handler }} of routes) {{
        const match = method === request.method && pattern.exec(pathname);
        if (match) return await handler(match, request);
      }}
      throw new Problem{index}(404, `nothing at ${{pathname}}`);
    }} catch (error) {{
      if (error instanceof Problem{index}) return error.toResponse();
      throw error;
    }}
  }},
}};
"#,
        summaries.join(", ")
    );
    let answer = format!(r#"{{"worker":"{name}","sections":[{}]}}"#, answers.join(","));
    Tenant { name, account: account(index), source, answer }
}

fn account(index: usize) -> String {
    format!("account{}", index / WORKERS_OF_ACCOUNT)
}

/// A table of rows with routes that read and write it; answers what its summary must be.
fn push_section(source: &mut String, index: usize, section: usize, random: &mut Random) -> String {
    let noun = NOUNS[random.below(NOUNS.len())];
    let rows: Vec<usize> = (0..=random.below(ROWS_MAX)).map(|_| random.below(10_000)).collect();
    let _ = write!(
        source,
        r#"
class Table{section} {{
  #rows = new Map();
  constructor(rows) {{
    for (const row of rows) this.#rows.set(row.id, row);
  }}
  get(id) {{
    const row = this.#rows.get(id);
    if (row === undefined) throw new Problem{index}(404, `no {noun} with id ${{id}}`);
    return row;
  }}
  put(id, {{ price, label = "unnamed" }}) {{
    if (!Number.isInteger(price) || price < 0) throw new Problem{index}(422, "price is no amount");
    this.#rows.set(id, {{ id, price, label, changed: true }});
    return this.get(id);
  }}
  summary() {{
    let total = 0;
    for (const {{ price }} of this.#rows.values()) total += price;
    return {{ name: "{noun}", count: this.#rows.size, total }};
  }}
}}

const table{section} = new Table{section}([
"#
    );
    for (id, price) in rows.iter().enumerate() {
        let _ = writeln!(source, r#"  {{ id: {id}, price: {price}, label: "{noun} {id}" }},"#);
    }
    let _ = write!(
        source,
        r#"]);
route("GET", "/{section}/{noun}/(\\d+)", ([, id]) => json(table{section}.get(Number(id))));
route("PUT", "/{section}/{noun}/(\\d+)", async ([, id], request) => {{
  const body = await request.json();
  return json(table{section}.put(Number(id), body));
}});
"#
    );
    let total: usize = rows.iter().sum();
    format!(r#"{{"name":"{noun}","count":{},"total":{total}}}"#, rows.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_workers_differ_in_source_and_size() {
        let tenants = small_apis(0, 500);
        let mut sources: Vec<&str> = tenants.iter().map(|tenant| tenant.source.as_str()).collect();
        sources.sort_unstable();
        sources.dedup();
        assert_eq!(sources.len(), tenants.len());
        let sizes = || tenants.iter().map(|tenant| tenant.source.len());
        assert!(sizes().max().unwrap() > 4 * sizes().min().unwrap());
        assert_eq!(small_apis(7, 8)[0].source, tenants[7].source, "a worker depends on its number");
    }
}
