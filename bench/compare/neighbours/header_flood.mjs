// Answers with as many headers as it may.
export default {
  fetch() {
    const headers = new Headers();
    for (let i = 0; i < 10_000; i++) headers.append(`x-flood-${i}`, "a".repeat(100));
    return new Response("headers\n", { headers });
  },
};
