// Bytes that a worker hands over: an ArrayBuffer or a view of one, read without what the worker may have changed.
(function () {
const { core, primordials } = __bootstrap;
const {
  ArrayBufferIsView,
  DataViewPrototypeGetBuffer,
  DataViewPrototypeGetByteLength,
  DataViewPrototypeGetByteOffset,
  TypeError,
  TypedArrayPrototypeGetBuffer,
  TypedArrayPrototypeGetByteLength,
  TypedArrayPrototypeGetByteOffset,
  TypedArrayPrototypeGetSymbolToStringTag,
  Uint8Array,
} = primordials;

function isBytes(value) {
  return ArrayBufferIsView(value) || core.isAnyArrayBuffer(value);
}

// The same bytes, not a copy of them.
function bytesOf(value) {
  if (!isBytes(value)) throw new TypeError("This stream takes bytes only: an ArrayBuffer or a view of one.");
  if (!ArrayBufferIsView(value)) return new Uint8Array(value);
  if (TypedArrayPrototypeGetSymbolToStringTag(value) === undefined) {
    return new Uint8Array(
      DataViewPrototypeGetBuffer(value),
      DataViewPrototypeGetByteOffset(value),
      DataViewPrototypeGetByteLength(value),
    );
  }
  return new Uint8Array(
    TypedArrayPrototypeGetBuffer(value),
    TypedArrayPrototypeGetByteOffset(value),
    TypedArrayPrototypeGetByteLength(value),
  );
}

return { bytesOf, isBytes };
})();
