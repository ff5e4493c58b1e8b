// bun run bun.mjs QUESTION PORT STATE_DIR
const [question, port, stateDir] = process.argv.slice(2);
const { default: worker } = await import(`./handlers/${question}.mjs`);
const env = {};

if (question === "kv_get") {
  const { Database } = await import("bun:sqlite");
  const db = new Database(`${stateDir}/bun-kv.sqlite`);
  db.run("PRAGMA journal_mode = WAL");
  db.run("CREATE TABLE kv (key TEXT PRIMARY KEY, value TEXT NOT NULL)");
  db.query("INSERT INTO kv VALUES (?, ?)").run("greeting", "hello from kv\n");
  const select = db.query("SELECT value FROM kv WHERE key = ?");
  env.KV = { get: async (key) => select.get(key)?.value ?? null };
}

Bun.serve({ hostname: "127.0.0.1", port: Number(port), fetch: (request) => worker.fetch(request, env) });
