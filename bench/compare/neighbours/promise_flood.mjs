// Never leaves the microtask queue.
export default {
  async fetch() {
    const spin = () => Promise.resolve().then(spin);
    await Promise.all(Array.from({ length: 1_000 }, spin));
    return new Response("never\n");
  },
};
