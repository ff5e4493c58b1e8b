// deno run deno.mjs QUESTION PORT STATE_DIR
const [question, port, stateDir] = Deno.args;
const { default: worker } = await import(`./handlers/${question}.mjs`);
const env = {};

if (question === "kv_get") {
  const store = await Deno.openKv(`${stateDir}/deno-kv.sqlite`);
  await store.set(["greeting"], "hello from kv\n");
  env.KV = { get: async (key) => (await store.get([key])).value };
}

Deno.serve({ hostname: "127.0.0.1", port: Number(port) }, (request) => worker.fetch(request, env));
