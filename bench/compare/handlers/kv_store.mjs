export default {
  async fetch(request, env) {
    const key = request.url.slice(request.url.lastIndexOf("/") + 1);
    if (request.method === "PUT") {
      await env.KV.put(key, await request.arrayBuffer());
      return new Response(null, { status: 204 });
    }
    const value = await env.KV.get(key, "arrayBuffer");
    return new Response(value, { status: value === null ? 404 : 200 });
  },
};
