// Loads a worker on demand, by the first label of the host, and hands it the request.
import workers from "workers.json";

export default {
  fetch(request, env) {
    const name = request.headers.get("host").split(".")[0];
    const source = workers[name];
    if (source === undefined) return new Response("no such worker\n", { status: 404 });
    const worker = env.LOADER.get(name, () => ({
      compatibilityDate: "2026-11-01",
      mainModule: "index.js",
      modules: { "index.js": source },
    }));
    return worker.getEntrypoint().fetch(request);
  },
};
