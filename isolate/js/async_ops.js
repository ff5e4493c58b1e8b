// Deno's stubs of asynchronous ops call `op.call(...)`, which looks `call` up on Function.prototype: a worker
// that replaces it there would be handed the ops themselves. So each op gets a `call` of its own that nobody
// can replace. The stubs close over their ops and show them to nobody but `call`: this script is that `call`
// for a moment, while the snapshot is made.
(function () {
const { core, primordials } = __bootstrap;
const {
  FunctionPrototype,
  FunctionPrototypeToString,
  ObjectDefineProperty,
  ObjectGetOwnPropertyDescriptor,
  ObjectKeys,
  StringPrototypeIncludes,
} = primordials;

const original = ObjectGetOwnPropertyDescriptor(FunctionPrototype, "call");
original.__proto__ = null;
const sealed = { __proto__: null, value: original.value, writable: false, enumerable: false, configurable: false };

function sealCall() {
  ObjectDefineProperty(this, "call", sealed);
  // Anything but undefined: the stub then makes no promise that waits.
  return null;
}

const names = ObjectKeys(core.ops);
ObjectDefineProperty(FunctionPrototype, "call", { __proto__: null, ...original, value: sealCall });
try {
  for (let i = 0; i < names.length; i++) {
    const op = core.ops[names[i]];
    if (typeof op !== "function") continue;
    if (StringPrototypeIncludes(FunctionPrototypeToString(op), "originalOp.call(")) op();
  }
} finally {
  ObjectDefineProperty(FunctionPrototype, "call", original);
}
return {};
})();
