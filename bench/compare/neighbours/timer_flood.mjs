// Sets ten thousand timers, each of which sets itself again for ever.
export default {
  async fetch() {
    const again = () => setTimeout(again, 0);
    for (let i = 0; i < 10_000; i++) again();
    await new Promise(() => {});
  },
};
