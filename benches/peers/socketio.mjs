// Socket.IO 4: every socket joins the room of its topic, a POST sends to it.
import { createServer } from "node:http";
import { Server } from "socket.io";

const http = createServer((request, response) => {
  const topic = decodeURIComponent(request.url.split("/publish/")[1] ?? "");
  let body = "";
  request.on("data", (part) => (body += part));
  request.on("end", () => {
    io.to(topic).emit("tick", JSON.parse(body));
    response.writeHead(202, { "Content-Length": "2" }).end("{}");
  });
});
http.keepAliveTimeout = 3_600_000;
const io = new Server(http, {
  transports: ["websocket"],
  pingInterval: 3_600_000,
  perMessageDeflate: false,
  httpCompression: false,
  serveClient: false,
});
io.on("connection", (socket) => {
  socket.join(socket.handshake.query.topic);
  // Socket.IO's advice for less memory: nothing here reads a connection's first request again
  socket.conn.request = null;
});
http.listen({ port: 0, host: "127.0.0.1", backlog: 4096 }, () => {
  console.log(JSON.stringify({ event: "listening", address: `127.0.0.1:${http.address().port}` }));
});
