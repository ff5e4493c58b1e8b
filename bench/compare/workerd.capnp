using Workerd = import "/workerd/workerd.capnp";

# One constant per question: `workerd serve workerd.capnp hello --socket-addr http=HOST:PORT`.

const hello :Workerd.Config = (
  services = [(name = "main", worker = (
    modules = [(name = "hello.mjs", esModule = embed "handlers/hello.mjs")],
    compatibilityDate = "2026-11-01",
  ))],
  sockets = [(name = "http", http = (), service = "main")],
);

const json :Workerd.Config = (
  services = [(name = "main", worker = (
    modules = [(name = "json.mjs", esModule = embed "handlers/json.mjs")],
    compatibilityDate = "2026-11-01",
  ))],
  sockets = [(name = "http", http = (), service = "main")],
);

const kvGet :Workerd.Config = (
  services = [
    (name = "main", worker = (
      modules = [(name = "kv_get.mjs", esModule = embed "handlers/kv_get.mjs")],
      bindings = [(name = "KV", kvNamespace = "store")],
      compatibilityDate = "2026-11-01",
    )),
    (name = "store", worker = (
      modules = [(name = "kv_store.mjs", esModule = embed "kv_store.mjs")],
      compatibilityDate = "2026-11-01",
    )),
  ],
  sockets = [(name = "http", http = (), service = "main")],
);

const stream :Workerd.Config = (
  services = [(name = "main", worker = (
    modules = [(name = "stream.mjs", esModule = embed "handlers/stream.mjs")],
    compatibilityDate = "2026-11-01",
  ))],
  sockets = [(name = "http", http = (), service = "main")],
);
