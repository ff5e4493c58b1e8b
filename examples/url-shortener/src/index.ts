// Short links in KV: POST / with a URL makes one, GET /<code> follows it, GET / lists them.

interface KVListKey {
  name: string;
  metadata?: { url: string; hits: number };
}

interface KVNamespace {
  get(key: string): Promise<string | null>;
  getWithMetadata<M>(key: string): Promise<{ value: string | null; metadata: M | null }>;
  put(key: string, value: string, options?: { metadata?: unknown }): Promise<void>;
  delete(key: string): Promise<void>;
  list(options?: { limit?: number }): Promise<{ keys: KVListKey[]; list_complete: boolean }>;
}

interface Env {
  LINKS: KVNamespace;
}

interface Context {
  waitUntil(promise: Promise<unknown>): void;
}

const ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz";

function newCode(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(7));
  return Array.from(bytes, (byte) => ALPHABET[byte % ALPHABET.length]).join("");
}

async function shorten(request: Request, env: Env): Promise<Response> {
  let target: URL;
  try {
    target = new URL((await request.text()).trim());
  } catch {
    return new Response("send a URL as the body\n", { status: 400 });
  }
  if (target.protocol !== "http:" && target.protocol !== "https:") {
    return new Response("only http and https URLs can be shortened\n", { status: 400 });
  }
  const code = newCode();
  await env.LINKS.put(code, target.href, { metadata: { url: target.href, hits: 0 } });
  return new Response(`${new URL(`/${code}`, request.url)}\n`, { status: 201 });
}

async function follow(code: string, env: Env, ctx: Context): Promise<Response> {
  const { value, metadata } = await env.LINKS.getWithMetadata<{ hits: number }>(code);
  if (value === null) return new Response("no such link\n", { status: 404 });
  const hits = (metadata?.hits ?? 0) + 1;
  ctx.waitUntil(env.LINKS.put(code, value, { metadata: { url: value, hits } }));
  return Response.redirect(value, 302);
}

export default {
  async fetch(request: Request, env: Env, ctx: Context): Promise<Response> {
    const code = new URL(request.url).pathname.slice(1);
    if (code === "") {
      if (request.method === "POST") return shorten(request, env);
      const { keys } = await env.LINKS.list({ limit: 100 });
      return Response.json(keys.map(({ name, metadata }) => ({ code: name, ...metadata })));
    }
    if (request.method === "DELETE") {
      await env.LINKS.delete(code);
      return new Response(null, { status: 204 });
    }
    return follow(code, env, ctx);
  },
};
