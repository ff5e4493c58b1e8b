// Computes for as many rounds as the path says.
export default {
  fetch(request) {
    const rounds = Number(new URL(request.url).pathname.slice(1));
    let x = 1;
    for (let i = 0; i < rounds; i++) x = (Math.imul(x, 1664525) + 1013904223) | 0;
    return new Response(`${x}\n`);
  },
};
