// A real Chromium, driven line by line: a JSON order comes in on the standard input, a JSON answer goes out.
//
//   KEYHOLDER_PEERS=target/tools/peers node driver.mjs
//
// KEYHOLDER_CHROMIUM names the program, if it is not on the PATH. Orders, each with a `tab` of a `profile`:
//   { "order": "go", "url": … }      opens a URL
//   { "order": "press", "button": … } presses a button, after `choose`: { label: value } was chosen
//   { "order": "back" }              the back button
//   { "order": "reload" }
//   { "order": "shoot", "file": …, "width": 1280, "height": 800, "dark": false }
//   { "order": "problems" }          what went wrong so far, in all profiles
// The answer is where the tab is then: { status, url, title, heading, text, overflows }, or { error }.
//
// Nothing but loopback is reached: any other request is a problem, and is cut off.

import { accessSync, constants } from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';
import { createRequire } from 'node:module';

const require = createRequire(path.join(path.resolve(process.env.KEYHOLDER_PEERS), 'browser', 'package.json'));
const { chromium } = require('playwright-core');

function program() {
  if (process.env.KEYHOLDER_CHROMIUM) return process.env.KEYHOLDER_CHROMIUM;
  const names = ['chromium', 'chromium-browser', 'google-chrome'];
  const places = process.env.PATH.split(path.delimiter);
  const all = names.flatMap((name) => places.map((place) => path.join(place, name)));
  const found = all.find((file) => {
    try {
      accessSync(file, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
  if (!found) throw new Error('there is no Chromium: deploy/tools/setup chromium');
  return found;
}

const browser = await chromium.launch({
  executablePath: program(),
  args: [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  ],
});

const problems = [];
const profiles = new Map();
const tabs = new Map();

function isHere(url) {
  const { protocol, hostname } = new URL(url);
  return protocol === 'http:' && ['127.0.0.1', 'localhost'].includes(hostname);
}

async function profile(name) {
  if (!profiles.has(name)) {
    const context = await browser.newContext();
    await context.route('**/*', (route) => {
      const request = route.request();
      if (!isHere(request.url())) problems.push(`a foreign request: ${request.url()}`);
      // A page of ours is one document and nothing else.
      if (request.resourceType() !== 'document') problems.push(`a ${request.resourceType()}: ${request.url()}`);
      return isHere(request.url()) ? route.continue() : route.abort();
    });
    profiles.set(name, context);
  }
  return profiles.get(name);
}

async function tab(order) {
  const key = `${order.profile}/${order.tab}`;
  if (!tabs.has(key)) {
    const page = await (await profile(order.profile)).newPage();
    page.on('console', (message) => {
      // That a page of ours is an error page is no fault of the page.
      const status = /^Failed to load resource: the server responded with a status of/;
      const ofPage = status.test(message.text()) && message.location().url === page.url();
      if (['error', 'warning'].includes(message.type()) && !ofPage) problems.push(`the console: ${message.text()}`);
    });
    page.on('pageerror', (error) => problems.push(`an error: ${error}`));
    page.on('response', (response) => {
      if (response.request().isNavigationRequest()) page.lastStatus = response.status();
    });
    tabs.set(key, page);
  }
  return tabs.get(key);
}

async function obey(order) {
  if (order.order === 'problems') return { problems };
  const page = await tab(order);
  switch (order.order) {
    case 'go':
      await page.goto(order.url);
      break;
    case 'press':
      for (const [label, value] of Object.entries(order.choose ?? {})) {
        await page.getByLabel(label).selectOption(value);
      }
      await Promise.all([page.waitForEvent('load'), page.getByRole('button', { name: order.button }).click()]);
      break;
    case 'back':
      await page.goBack();
      break;
    case 'reload':
      await page.reload();
      break;
    case 'shoot':
      await page.emulateMedia({ colorScheme: order.dark ? 'dark' : 'light' });
      await page.setViewportSize({ width: order.width, height: order.height });
      await page.screenshot({ path: order.file });
      break;
    default:
      throw new Error(`no such order: ${order.order}`);
  }
  const heading = page.locator('h1').first();
  return {
    status: page.lastStatus,
    url: page.url(),
    title: await page.title(),
    heading: (await heading.count()) ? await heading.innerText() : '',
    text: await page.locator('body').innerText(),
    overflows: await page.evaluate('document.documentElement.scrollWidth > window.innerWidth'),
  };
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = await obey(JSON.parse(line));
  } catch (error) {
    answer = { error: String(error) };
  }
  console.log(JSON.stringify(answer));
}
await browser.close();
