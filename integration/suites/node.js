// Servers of Node, step by step; prints what comes of each. `node servers.js PORT ADDRESS`: a port that nobody has, and an address
// of the host.
'use strict';
const cluster = require('cluster');
const dgram = require('dgram');
const http = require('http');
const net = require('net');
const { once } = require('events');

const port = Number(process.argv[2]);
const own = process.argv[3];

// Listens, or says why not.
async function listen(server, options) {
    server.listen(options);
    try {
        await once(server, 'listening');
        return 'listens';
    } catch (error) {
        return error.code;
    }
}

async function bind(socket, options) {
    socket.bind(options);
    try {
        await once(socket, 'listening');
        return 'bound';
    } catch (error) {
        return error.code;
    }
}

async function close(...servers) {
    for (const server of servers) {
        const closed = once(server, 'close');
        server.close();
        await closed;
    }
}

function get(host, port, options = {}) {
    return new Promise((resolve, reject) => {
        const request = http.get({ host, port, agent: false, timeout: 5000, ...options }, (response) => {
            let body = '';
            response.on('data', (part) => (body += part)).on('end', () => resolve(body));
        });
        request.on('timeout', () => request.destroy(new Error(`no answer from ${host} ${port}`))).on('error', reject);
    });
}

const web = () => http.createServer((request, response) => response.end(String(request.socket.remotePort)));

async function connections() {
    const server = web();
    await listen(server, { port: 0 });
    const chosen = server.address().port;
    const reached = [];
    for (const host of ['127.0.0.1', '::1', own]) {
        if (Number(await get(host, chosen)) > 0) reached.push(host);
    }
    console.log(`a port of the kernel's choice: reached at ${reached.join(', ')}`);
    console.log(`a port that is taken: ${await listen(net.createServer(), { port: chosen })}`);
    console.log(`the same for 127.0.0.1: ${await listen(net.createServer(), { port: chosen, host: '127.0.0.1' })}`);
    await close(server);

    const first = web();
    await listen(first, { port });
    await close(first);
    const second = web();
    console.log(`a port that is free again: ${await listen(second, { port })}`);
    const seen = await get('127.0.0.1', port, { localPort: port + 1 });
    console.log(`a chosen source port: ${Number(seen) === port + 1 ? 'seen by the server' : seen}`);
    await close(second);
}

async function families() {
    const both = web();
    await listen(both, { port: port + 2, host: '::' });
    const reached = [await get('127.0.0.1', port + 2), await get('::1', port + 2)];
    console.log(`IPv6 and IPv4: ${reached.every(Number) ? 'both reached' : reached}`);
    console.log(`IPv4 beside both: ${await listen(net.createServer(), { port: port + 2, host: '0.0.0.0' })}`);
    await close(both);
    const [six, four] = [web(), web()];
    await listen(six, { port: port + 3, host: '::', ipv6Only: true });
    console.log(`IPv4 beside IPv6 alone: ${await listen(four, { port: port + 3, host: '0.0.0.0' })}`);
    await close(six, four);
}

async function datagrams() {
    const [server, client] = [dgram.createSocket('udp4'), dgram.createSocket('udp4')];
    await bind(server, { port: port + 4 });
    await bind(client, { port: 0 });
    server.on('message', (text, from) => server.send(`${text} ${from.port}`, from.port, from.address));
    client.send('to', port + 4, own);
    const [answer, from] = await once(client, 'message');
    const right = String(answer) === `to ${client.address().port}` && from.port === port + 4;
    console.log(`datagrams: ${right ? 'answered' : answer}`);
    const other = dgram.createSocket('udp4');
    console.log(`datagrams at a port that is taken: ${await bind(other, { port: port + 4 })}`);
    await close(server, client);
    const shared = [0, 1].map(() => dgram.createSocket({ type: 'udp4', reuseAddr: true }));
    const done = [await bind(shared[0], { port: port + 5 }), await bind(shared[1], { port: port + 5 })];
    console.log(`datagrams at a shared port: ${done[0] === done[1] ? done[0] : done}`);
    await close(...shared);
}

// Two workers listen on a port; resolves with what each is told. A worker exits when it is told to.
async function workers(policy, listening) {
    cluster.schedulingPolicy = policy;
    cluster.setupPrimary({ args: process.argv.slice(2).concat(JSON.stringify(listening)) });
    const all = [];
    const told = [];
    for (let n = 0; n < 2; n++) {
        const worker = cluster.fork();
        all.push(worker);
        told.push((await once(worker, 'message'))[0]);
    }
    return [all, told];
}

async function end(all) {
    for (const worker of all) {
        const ended = once(worker, 'exit');
        worker.kill();
        await ended;
    }
}

async function shared(name, policy, at) {
    const [all] = await workers(policy, { port: at });
    const answered = new Set();
    for (let n = 0; n < 1000 && answered.size < 2; n++) {
        // Many at a time, so that the one that is busy leaves some to the other.
        for (const pid of await Promise.all(Array.from({ length: 8 }, () => get('127.0.0.1', at)))) answered.add(pid);
    }
    await end(all);
    const pids = all.map((worker) => String(worker.process.pid));
    console.log(`${name}: ${pids.every((pid) => answered.has(pid)) ? 'both answer' : [...answered]}`);
}

async function main() {
    await connections();
    await families();
    await datagrams();
    await shared('two workers, the first process accepts', cluster.SCHED_RR, port + 6);
    await shared('two workers accept', cluster.SCHED_NONE, port + 7);
    const [all, told] = await workers(cluster.SCHED_RR, { port: port + 8, exclusive: true });
    console.log(`a worker with a socket of its own: ${told[0] === 'listens' ? told[1] : told}`);
    await end(all);
}

async function work() {
    const server = http.createServer((request, response) => response.end(String(process.pid)));
    process.send(await listen(server, JSON.parse(process.argv[4])));
}

(cluster.isPrimary ? main() : work()).catch((error) => {
    console.log(error);
    process.exitCode = 1;
});
