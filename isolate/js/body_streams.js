// What bodies do with streams. Loaded when a body is first made into a stream, or of one.
(function () {
const { core, primordials } = __bootstrap;
const { PromisePrototypeCatch, SafeWeakMap, TypeError, WeakMapPrototypeGet, WeakMapPrototypeSet } = primordials;
const { Body, bodyFromData, lateKindOf, legible, NO_RESOURCE, toBytes } = core.loadExtScript("ext:atoll/body.js");
const {
  acquireReadableStreamDefaultReader,
  createProxy,
  createReadableStream,
  errorReadableStream,
  getReadableStreamResourceBacking,
  isReadableStreamDisturbed,
  isReadableStreamLocked,
  ReadableStream,
  readableStreamClose,
  readableStreamCollectIntoUint8Array,
  readableStreamDisturb,
  readableStreamForRid,
  readableStreamTee,
  readableStreamThrowIfErrored,
  resourceForReadableStream,
} = core.loadExtScript("ext:deno_web/06_streams.js");

// What streams were made of that nobody has read from: a response with such a body is sent in one piece.
const madeOf = new SafeWeakMap();

function isUnusable(stream) {
  return isReadableStreamLocked(stream) || isReadableStreamDisturbed(stream);
}

function streamOf(body) {
  if (body.used) return spent();
  if (body.rid === NO_RESOURCE) return streamOfData(body.data);
  body.release();
  const stream = body.reader = readableStreamForRid(body.rid);
  if (body.failure !== null) errorReadableStream(stream, body.failure.reason);
  return stream;
}

// The stream of a body that was read before anybody asked for one.
function spent() {
  const stream = new ReadableStream();
  acquireReadableStreamDefaultReader(stream);
  readableStreamDisturb(stream);
  readableStreamClose(stream);
  return stream;
}

function streamOfData(data) {
  // Nothing is encoded before somebody reads.
  const pull = (controller) => {
    controller.enqueue(toBytes(data));
    controller.close();
  };
  const stream = createReadableStream(() => {}, pull, async () => {}, 0);
  WeakMapPrototypeSet(madeOf, stream, data);
  return stream;
}

function collect(stream) {
  readableStreamThrowIfErrored(stream);
  return PromisePrototypeCatch(readableStreamCollectIntoUint8Array(stream), (error) => {
    throw legible(error);
  });
}

function tee(body) {
  const { 0: kept, 1: copied } = readableStreamTee(body.stream, true);
  body.made = kept;
  return copied;
}

function take(body) {
  const stream = body.made;
  const backing = getReadableStreamResourceBacking(stream);
  if (!backing || isReadableStreamDisturbed(stream)) return resourceForReadableStream(stream, body.length);
  // The bytes never enter JS. The reader keeps everyone else off the stream.
  acquireReadableStreamDefaultReader(stream);
  readableStreamDisturb(stream);
  return backing.rid;
}

function bodyFromStream(stream) {
  const body = new Body();
  body.made = stream;
  return body;
}

function bodyFromBlob(blob) {
  const body = bodyFromStream(blob.stream());
  body.source = blob;
  body.length = blob.size;
  return { body, contentType: blob.type === "" ? null : blob.type };
}

// https://fetch.spec.whatwg.org/#concept-bodyinit-extract, for what is no string, bytes or parameters
function extract(object) {
  switch (lateKindOf(object)) {
    case "ReadableStream":
      if (isUnusable(object)) throw new TypeError("ReadableStream is locked or disturbed");
      return { body: extractStream(object), contentType: null };
    case "Blob":
      return bodyFromBlob(object);
    case "FormData":
      return bodyFromBlob(core.loadExtScript("ext:deno_fetch/21_formdata.js").formDataToBlob(object));
    default:
      return { body: bodyFromStream(ReadableStream.from(object.open())), contentType: null };
  }
}

function extractStream(stream) {
  const data = WeakMapPrototypeGet(madeOf, stream);
  return data === undefined ? bodyFromStream(stream) : bodyFromData(data, false);
}

// Of a body that is no stream, nor anything else, which is the same as one that has come to its end.
function emptyStream() {
  const stream = new ReadableStream();
  readableStreamClose(stream);
  return stream;
}

function textOf(stream) {
  const { TextDecoderStream } = core.loadExtScript("ext:deno_web/08_text_encoding.js");
  return stream.pipeThrough(new TextDecoderStream());
}

return {
  collect,
  emptyStream,
  extract,
  fail: errorReadableStream,
  isDisturbed: isReadableStreamDisturbed,
  isUnusable,
  proxyOf: createProxy,
  streamOf,
  take,
  tee,
  textOf,
};
})();
