// Nest with @nestjs/throttler and @nest-lab/throttler-storage-redis, without TypeScript. PORT REDIS_URL LIMIT WINDOW_SECONDS
require("reflect-metadata");
const { Controller, Get, Module } = require("@nestjs/common");
const { APP_GUARD, NestFactory } = require("@nestjs/core");
const { SkipThrottle, ThrottlerGuard, ThrottlerModule } = require("@nestjs/throttler");
const { ThrottlerStorageRedisService } = require("@nest-lab/throttler-storage-redis");
const { Redis } = require("ioredis");

const [port, redisUrl, limit, window] = process.argv.slice(2);
const redis = new Redis(redisUrl);
redis.on("error", console.error);

// Does what TypeScript does for @decorator before a method.
function decorate(type, method, ...decorators) {
  const descriptor = Object.getOwnPropertyDescriptor(type.prototype, method);
  decorators.forEach((decorator) => decorator(type.prototype, method, descriptor));
}

class AppController {
  ready() {
    return "ready";
  }

  hits() {
    return "allowed";
  }
}
Controller()(AppController);
decorate(AppController, "ready", Get("ready"), SkipThrottle());
decorate(AppController, "hits", Get("hits"));

class AppModule {}
Module({
  controllers: [AppController],
  imports: [
    ThrottlerModule.forRoot({
      throttlers: [{ limit: Number(limit), ttl: Number(window) * 1000 }],
      storage: new ThrottlerStorageRedisService(redis),
      getTracker: (request) => request.query.key,
    }),
  ],
  providers: [{ provide: APP_GUARD, useClass: ThrottlerGuard }],
})(AppModule);

NestFactory.create(AppModule).then((app) => app.listen(Number(port), "127.0.0.1"));
