const CHUNKS = 16;
const chunk = new Uint8Array(64 * 1024).fill(97);

export default {
  fetch() {
    let sent = 0;
    const body = new ReadableStream({
      pull(controller) {
        if (sent === CHUNKS) return controller.close();
        sent += 1;
        controller.enqueue(chunk.slice());
      },
    });
    return new Response(body);
  },
};
