// oidc-provider, an OAuth 2.0 and OpenID server that nobody here wrote, set up for tests: HTTP on loopback,
// nobody to ask for consent, short-lived tokens, and knobs to spoil answers.
//
//   KEYHOLDER_PEERS=target/tools/peers node server.mjs
//
// Settings, from the environment: PORT (0: any free one, the first line of output says which), ACCESS_SECONDS
// (5), CALLBACKS (addresses that clients may send people back to, divided by spaces), UNTIL_STDIN_ENDS (1: stop
// when the standard input ends, so that nothing outlives whoever started it).
//
// Clients: broker (Basic), broker-post (secret in the body), broker-par (pushed requests only), machine (for
// itself); each has the secret `<id>-secret`. device has none.
//
// People: whoever `login_hint` names, alice by default. `deny` denies.
//
// Knobs: GET /_control/counts            calls by path, and `grants_revoked`
//        DELETE /_control/faults         no faults any more
//        POST /_control/faults           a JSON fault, for the next calls of a path:
//          { "path": "/token", "times": 1, "delay_ms": 0, and one of
//            "drop": true                 the connection ends; nothing was done
//            "lose": true                 the server does its work, and the connection ends before the answer
//            "status": 503, "headers": {}, "body": "" }

import http from 'node:http';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

// The packages are not beside this file, but where `deploy/tools/setup peers` puts them.
const packages = path.join(process.env.KEYHOLDER_PEERS, 'node_modules');
const entry = path.join(packages, 'oidc-provider', 'lib', 'index.js');
const { Provider } = await import(pathToFileURL(entry).href);

const accessSeconds = Number(process.env.ACCESS_SECONDS ?? 5);
const callbacks = (process.env.CALLBACKS ?? 'http://127.0.0.1:9/callback').split(' ');
const DEVICE_CODE = 'urn:ietf:params:oauth:grant-type:device_code';
const SCOPES = 'mail.read mail.send';

// The port is part of the issuer: it must be known before there is a provider.
const server = http.createServer();
await new Promise((listening) => server.listen(Number(process.env.PORT ?? 0), '127.0.0.1', listening));
const issuer = `http://127.0.0.1:${server.address().port}`;

// === The provider ===

function webClient(id, more = {}) {
  return {
    client_id: id,
    client_secret: `${id}-secret`,
    redirect_uris: callbacks,
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    token_endpoint_auth_method: 'client_secret_basic',
    ...more,
  };
}

const provider = new Provider(issuer, {
  clients: [
    webClient('broker'),
    webClient('broker-post', { token_endpoint_auth_method: 'client_secret_post' }),
    webClient('broker-par', { require_pushed_authorization_requests: true }),
    webClient('machine', { redirect_uris: [], response_types: [], grant_types: ['client_credentials'] }),
    {
      client_id: 'device',
      token_endpoint_auth_method: 'none',
      redirect_uris: [],
      response_types: [],
      grant_types: [DEVICE_CODE, 'refresh_token'],
    },
  ],
  scopes: ['openid', 'offline_access', ...SCOPES.split(' ')],
  pkce: { required: () => true },
  rotateRefreshToken: true, // and a token that comes again ends its grant
  issueRefreshToken: async (_context, client) => client.grantTypeAllowed('refresh_token'),
  ttl: {
    AccessToken: (_context, token) => token.resourceServer?.accessTokenTTL ?? accessSeconds,
    ClientCredentials: accessSeconds,
    AuthorizationCode: 60,
    DeviceCode: 60,
    Grant: 3600,
    IdToken: 60,
    Interaction: 600,
    RefreshToken: 3600,
    Session: 3600,
  },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true, allowedPolicy: () => true },
    pushedAuthorizationRequests: { enabled: true },
    deviceFlow: {
      enabled: true,
      charset: 'digits',
      mask: '****-****',
      userCodeInputSource: (context, form) => void (context.body = form),
      userCodeConfirmSource: (context, form) => void (context.body = form),
      successSource: (context) => void (context.body = 'the device is connected'),
    },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      useGrantedResource: () => true,
      getResourceServerInfo: (_context, resource) => ({
        scope: SCOPES,
        audience: resource,
        accessTokenTTL: accessSeconds,
        accessTokenFormat: 'jwt',
      }),
    },
  },
  findAccount: (_context, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  interactions: { url: (_context, interaction) => `/_consent/${interaction.uid}` },
  cookies: { keys: ['only for tests'] },
});

const counts = {};
const count = (what) => void (counts[what] = (counts[what] ?? 0) + 1);
provider.on('grant.revoked', () => count('grants_revoked'));
provider.on('server_error', (_context, error) => console.error('server_error', error));
provider.on('grant.error', (_context, error) => console.error('grant.error', error.error, error.error_detail));

// === Consent without a person ===

async function consent(request, response) {
  const interaction = await provider.interactionDetails(request, response);
  const hint = interaction.params.login_hint;
  let result;
  if (hint === 'deny') result = { error: 'access_denied', error_description: 'the person said no' };
  else if (interaction.prompt.name === 'login') result = { login: { accountId: hint ?? 'alice' } };
  else result = { consent: { grantId: await grantWhatIsMissing(interaction) } };
  await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: true });
}

async function grantWhatIsMissing({ grantId, session, params, prompt }) {
  const grant = grantId
    ? await provider.Grant.find(grantId)
    : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  const { missingOIDCScope, missingResourceScopes = {} } = prompt.details;
  if (missingOIDCScope) grant.addOIDCScope(missingOIDCScope.join(' '));
  for (const [resource, scopes] of Object.entries(missingResourceScopes)) {
    grant.addResourceScope(resource, scopes.join(' '));
  }
  return grant.save();
}

// === Knobs ===

const faults = [];

async function control(request, response, what) {
  if (what === 'counts') return response.end(JSON.stringify(counts));
  if (request.method === 'DELETE') {
    faults.length = 0;
    return response.end();
  }
  let body = '';
  for await (const chunk of request) body += chunk;
  faults.push({ times: 1, ...JSON.parse(body) });
  response.end();
}

// Whether the fault left something to do.
async function spoil(fault, request, response) {
  fault.times -= 1;
  if (fault.delay_ms) await new Promise((over) => setTimeout(over, fault.delay_ms));
  if (fault.drop) request.socket.destroy();
  else if (fault.lose) response.end = () => request.socket.destroy();
  else if (fault.status) {
    response.writeHead(fault.status, fault.headers ?? { 'content-type': 'application/json' });
    response.end(fault.body ?? '{"error":"server_error"}');
  }
  return !fault.drop && !fault.status;
}

// === Requests ===

const answer = provider.callback();

server.on('request', async (request, response) => {
  const { pathname } = new URL(request.url, issuer);
  try {
    if (pathname.startsWith('/_control/')) return await control(request, response, pathname.slice(10));
    if (pathname.startsWith('/_consent/')) return await consent(request, response);
    count(pathname);
    const fault = faults.find((fault) => fault.path === pathname && fault.times > 0);
    if (!fault || (await spoil(fault, request, response))) answer(request, response);
  } catch (error) {
    console.error(error);
    if (!response.headersSent) response.writeHead(500);
    response.end();
  }
});

if (process.env.UNTIL_STDIN_ENDS === '1') process.stdin.on('end', () => process.exit()).resume();
console.log(issuer);
