// Keeps everything that it ever makes.
const kept = [];

export default {
  async fetch() {
    for (;;) {
      for (let i = 0; i < 1_000; i++) kept.push(Array.from({ length: 100 }, (_, n) => n * i));
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
  },
};
