// A WebAssembly module as a deployed file: compiled once, instantiated once per isolate.
import math from "./math.wasm";

const { exports } = new WebAssembly.Instance(math);

export default {
  fetch(request) {
    const { pathname } = new URL(request.url);
    const [operation, ...values] = pathname.slice(1).split("/");
    const numbers = values.map(Number);
    if (operation === "gcd" && numbers.length === 2) {
      return Response.json({ gcd: exports.gcd(...numbers) });
    }
    if (operation === "fibonacci" && numbers.length === 1) {
      return Response.json({ fibonacci: BigInt.asUintN(64, exports.fibonacci(...numbers)).toString() });
    }
    const status = pathname === "/" ? 200 : 404;
    return new Response("try /gcd/48/36 or /fibonacci/90\n", { status });
  },
};
