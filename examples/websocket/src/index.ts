const PAGE = `<!doctype html>
<title>WebSocket</title>
<form><input autofocus placeholder="say something"> <button>send</button></form>
<pre></pre>
<script>
  const show = (line) => (document.querySelector("pre").textContent += line + "\\n");
  const socket = new WebSocket(location.origin.replace("http", "ws") + "/echo");
  socket.onopen = () => show("connected");
  socket.onmessage = ({ data }) => show(data);
  socket.onclose = ({ code, reason }) => show("closed: " + code + " " + reason);
  document.querySelector("form").onsubmit = (event) => {
    event.preventDefault();
    const input = document.querySelector("input");
    socket.send(input.value);
    input.value = "";
  };
</script>`;

export default {
  fetch(request) {
    if (request.headers.get("upgrade") !== "websocket") {
      return new Response(PAGE, { headers: { "content-type": "text/html" } });
    }
    const { 0: client, 1: server } = new WebSocketPair();
    server.accept();
    let count = 0;
    server.addEventListener("message", ({ data }) => {
      if (data === "bye") return server.close(1000, `after ${count} messages`);
      server.send(`${++count}: ${data}`);
    });
    return new Response(null, { status: 101, webSocket: client });
  },
} satisfies ExportedHandler;
