// What stands behind workerd's KV binding: a worker in the same process that answers KV's HTTP
// protocol from memory. workerd itself brings no store.
const values = new Map([["greeting", "hello from kv\n"]]);

export default {
  fetch(request) {
    const key = decodeURIComponent(new URL(request.url).pathname.slice(1));
    const value = values.get(key);
    return value === undefined
      ? new Response("not found", { status: 404 })
      : new Response(value);
  },
};
