export default {
  fetch(request) {
    const order = {
      method: request.method,
      id: 42,
      customer: { name: "Ada", city: "London", vip: true },
      lines: [1, 2, 3].map((n) => ({ sku: `sku-${n}`, quantity: n, price: n * 10 })),
    };
    return new Response(JSON.stringify(order), {
      headers: { "content-type": "application/json" },
    });
  },
};
