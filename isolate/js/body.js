// Bodies across the boundary: what a Request or Response holds, as bytes or as a resource that Rust reads.
(function () {
const { core, primordials } = __bootstrap;
const { ObjectPrototypeIsPrototypeOf, TypeError, TypedArrayPrototypeGetSymbolToStringTag } = primordials;
const {
  acquireReadableStreamDefaultReader,
  getReadableStreamResourceBacking,
  isReadableStreamDisturbed,
  readableStreamDisturb,
  readableStreamForRid,
  ReadableStreamPrototype,
  resourceForReadableStream,
} = core.loadExtScript("ext:deno_web/06_streams.js");
const { InnerBody } = core.loadExtScript("ext:deno_fetch/22_body.js");

// Takes an InnerBody for sending. The result is null, a string, a Uint8Array, or a resource id.
function takeBody(inner) {
  if (inner === null) return null;
  if (inner.unusable()) {
    throw new TypeError("Body has already been used. It can only be used once. Use tee() first if you need to read it twice.");
  }
  const held = inner.streamOrStatic;
  if (ObjectPrototypeIsPrototypeOf(ReadableStreamPrototype, held)) {
    const backing = getReadableStreamResourceBacking(held);
    if (backing && !isReadableStreamDisturbed(held)) {
      // The bytes never enter JS. The reader keeps everyone else off the stream.
      acquireReadableStreamDefaultReader(held);
      readableStreamDisturb(held);
      return backing.rid;
    }
    return resourceForReadableStream(held, inner.length);
  }
  held.consumed = true;
  const body = held.body;
  if (typeof body === "string" || TypedArrayPrototypeGetSymbolToStringTag(body) === "Uint8Array") {
    return body;
  }
  throw new TypeError("unknown kind of body");
}

function bodyFromRid(rid) {
  return new InnerBody(readableStreamForRid(rid));
}

return { takeBody, bodyFromRid };
})();
