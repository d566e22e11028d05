// A NestJS controller with @Sse: one subject a topic, as applications write it; decorators applied by hand.
import "reflect-metadata";
import { Body, Controller, HttpCode, Module, Param, Post, Sse } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import { map, Subject } from "rxjs";

const topics = new Map();
const subject = (topic) => topics.get(topic) ?? topics.set(topic, new Subject()).get(topic);

class Events {
  events(topic) {
    return subject(topic).pipe(map((data) => ({ type: "tick", data })));
  }
  publish(topic, body) {
    subject(topic).next(body);
    return {};
  }
}
const decorate = (name, ...decorators) =>
  decorators.forEach((decorator) => decorator(Events.prototype, name, Object.getOwnPropertyDescriptor(Events.prototype, name)));
Param("topic")(Events.prototype, "events", 0);
decorate("events", Sse("events/:topic"));
Param("topic")(Events.prototype, "publish", 0);
Body()(Events.prototype, "publish", 1);
decorate("publish", Post("publish/:topic"), HttpCode(202));
Controller()(Events);
class App {}
Module({ controllers: [Events] })(App);

const app = await NestFactory.create(App, { logger: false });
const server = app.getHttpServer();
server.keepAliveTimeout = 3_600_000;
await app.init();
server.listen({ port: 0, host: "127.0.0.1", backlog: 4096 }, () => {
  console.log(JSON.stringify({ event: "listening", address: `127.0.0.1:${server.address().port}` }));
});
