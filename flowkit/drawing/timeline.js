// A timeline on a canvas: of what is in view, and what lies closer than two pixels as one. Comes after hover.js.
const D=JSON.parse(document.getElementById('data').textContent),K=D.kinds,B=D.bars,S=D.signs,L=D.links,R=D.rows;
const c=document.querySelector('canvas'),g=c.getContext('2d'),main=document.querySelector('main'),LH=20,AX=24;
const span=D.span||1e-6,left=Math.min(320,D.left);let t0=0,t1=span,sy=0,w=0,h=0,hot=null,drawn=[];
const byLane=Array.from({length:D.count},()=>[]),sLane=Array.from({length:D.count},()=>[]);
B.forEach((b,i)=>byLane[b[0]].push(i));S.forEach((s,i)=>sLane[s[0]].push(i));
const longest=byLane.map(l=>{let m=-1;return l.map(i=>m=Math.max(m,B[i][2]))});
for(const l of sLane)l.sort((a,b)=>S[a][1]-S[b][1]);L.sort((a,b)=>a[3]-b[3]);
const css=n=>getComputedStyle(document.body).getPropertyValue(n).trim();
const X=t=>left+(t-t0)/(t1-t0)*(w-left-8),T=x=>t0+(x-left)/(w-left-8)*(t1-t0),Y=l=>l*LH-sy+4;
const sec=v=>v&&Math.abs(v)<1e-3?(v*1e6).toPrecision(3)+' µs':v&&Math.abs(v)<1?(v*1e3).toPrecision(4)+' ms':Math.abs(v)<120?+v.toPrecision(6)+' s':Math.abs(v)<7200?+(v/60).toPrecision(6)+' min':+(v/3600).toPrecision(6)+' h';
const first=(l,f)=>{let a=0,b=l.length;while(a<b){const m=a+b>>1;if(f(m))b=m;else a=m+1}return a};
let due=0;const soon=()=>{if(!due)due=requestAnimationFrame(()=>{due=0;draw()})};
function size(){const r=main.getBoundingClientRect(),d=devicePixelRatio||1;w=r.width;h=r.height;c.width=w*d;c.height=h*d;
g.setTransform(d,0,0,d,0,0);soon()}
function draw(){const P={};for(const n of['bg','ink','dim','line','box','edge','ok','bad','again','cut','run','wait','ask-e'])P[n]=css('--'+n);
const col={returned:P.ok,failed:P.bad,retried:P.again,cut:P.cut,running:P.run,waiting:P.wait};
sy=Math.max(0,Math.min(sy,D.count*LH+8-(h-AX)));drawn=[];g.fillStyle=P.bg;g.fillRect(0,0,w,h);g.font='12px system-ui,sans-serif';
R.forEach((r,i)=>{if(i%2&&r[4]){g.fillStyle=P.box;g.fillRect(0,Y(r[2]),w,LH*r[3])}});
const fits=s=>(t1-t0)/s<=w/110;
let step=t1<=120||fits(10)?1e-9:fits(30)?30:t1<=7200||fits(600)?60:fits(1800)?1800:3600; // in the unit of the labels
while(!fits(step)){const f=[2,5].find(f=>fits(step*f));step*=f||10;if(f)break}
g.textAlign='center';for(let k=Math.ceil(t0/step);k*step<=t1;k++){const x=X(k*step);g.fillStyle=P.edge;g.fillRect(x,0,1,h-AX);
g.fillStyle=P.dim;g.fillText(sec(k*step),x,h-8)}
g.save();g.beginPath();g.rect(left-3,0,w,h-AX);g.clip();
const from=Math.max(0,Math.floor((sy-4)/LH)),to=Math.min(D.count,Math.ceil((sy+h)/LH)+1);
for(let l=from;l<to;l++){const a=byLane[l],m=longest[l];let k=first(a,j=>m[j]>=t0),y=Y(l),px=-9,n=0,bad=0,f0=0;
const flush=()=>{if(!n)return;g.fillStyle=bad?P.bad:P.ok;g.globalAlpha=n>1?.8:1;g.fillRect(px,y+3,2,LH-6);g.globalAlpha=1;
drawn.push([px-1,y,px+3,y+LH,n>1?-1-n:f0]);n=0};
for(;k<a.length;k++){const i=a[k],b=B[i];if(b[1]>t1)break;if(b[2]<t0)continue;const x=X(b[1]),e=X(b[2]),what=K[b[3]];
if(e-x<2&&what!=='waiting'&&what!=='pause'){if(x-px>=2){flush();px=Math.floor(x);bad=0;f0=i}n++;bad|=what==='failed';continue}
flush();if(what==='pause'){g.strokeStyle=P.again;g.lineWidth=2;g.setLineDash([2,3]);g.beginPath();g.moveTo(x,y+LH/2);g.lineTo(e,y+LH/2);g.stroke();g.setLineDash([])}
else{const q=what==='waiting'?6:3;g.fillStyle=col[what];g.fillRect(x,y+q,Math.max(2,e-x),LH-2*q);const vis=Math.max(x,left);
if(q===3&&e-vis>24){g.save();g.beginPath();g.rect(vis,y,e-vis-3,LH);g.clip();g.fillStyle=P.bg;g.textAlign='left';g.fillText(D.names[b[4]],vis+4,y+14);g.restore()}}
drawn.push([x,y,Math.max(e,x+3),y+LH,i])}flush();
let sx=-9;const s=sLane[l];for(k=first(s,j=>S[s[j]][1]>=t0);k<s.length;k++){const q=S[s[k]];if(q[1]>t1)break;const x=X(q[1]);if(x-sx<1.5)continue;sx=x;
g.fillStyle=D.names[q[2]]==='error'?P.bad:P['ask-e'];g.fillRect(x-.75,y+1,1.5,LH-2);g.beginPath();g.arc(x,y+3,2,0,7);g.fill();drawn.push([x-3,y-1,x+3,y+7,'s'+s[k]])}}
const vis=[];for(let k=first(L,j=>L[j][3]>=t0);k<L.length&&vis.length<400;k++){if(L[k][1]>t1)continue;vis.push(L[k])}
const few=vis.length<400,near=k=>hot!==null&&typeof hot==='number'&&hot>=0&&((k[2]===B[hot][0]&&k[3]===B[hot][1])||(k[0]===B[hot][0]&&k[1]>=B[hot][1]&&k[1]<=B[hot][2]));
for(const k of few?vis:L.filter(near)){const x=X(k[1]),y=Y(k[0])+LH/2,e=X(k[3]),d=Y(k[2]),z=d>y?d+3:d+LH<y?d+LH-3:d+LH/2,way=z>y?1:-1;
g.strokeStyle=g.fillStyle=near(k)?P.ink:P.line;g.globalAlpha=hot!==null&&!near(k)?.25:.85;g.lineWidth=near(k)?2:1;g.beginPath();g.moveTo(x,y);g.bezierCurveTo(x+10,y,e,z-12*way,e,z);g.stroke();
g.beginPath();g.moveTo(e,z);g.lineTo(e-3,z-5*way);g.lineTo(e+3,z-5*way);g.fill();g.globalAlpha=1}
g.restore();document.getElementById('few').textContent=few?'':'zoom in to see arrows; hover for those of one step';
g.textAlign='left';R.forEach((r,i)=>{const y=Y(r[2]);if(y>h-AX||y+LH*r[3]<0)return;g.fillStyle=i%2&&r[4]?P.box:P.bg;g.fillRect(0,y,left-4,LH*r[3]);
g.fillStyle=r[4]?P.ink:P.dim;g.fillText(r[0],8+14*r[1],Math.max(y,0)+14,left-14-14*r[1])});
g.fillStyle=P.bg;g.fillRect(0,h-AX,left-4,AX)}
function clamp(){const d=Math.min(Math.max(t1-t0,span*1e-7,1e-9),span*1.05);if(t0<-.02*span)t0=-.02*span;t1=t0+d;if(t1>span*1.03){t1=span*1.03;t0=t1-d}}
function zoom(f,x){const t=T(x);t0=t-(t-t0)*f;t1=t+(t1-t)*f;clamp();soon()}
function fit(){t0=-.01*span;t1=1.02*span;sy=0;soon()}
on('fit',fit);on('in',()=>zoom(.6,(left+w)/2));on('out',()=>zoom(1.67,(left+w)/2));
c.addEventListener('wheel',e=>{e.preventDefault();if(e.shiftKey){sy+=e.deltaY;soon()}else zoom(Math.exp(e.deltaY*.0018),Math.max(left,e.clientX))},{passive:false});
let drag=null;c.addEventListener('pointerdown',e=>{drag=[e.clientX,e.clientY];c.setPointerCapture(e.pointerId)});c.addEventListener('pointerup',()=>drag=null);
c.addEventListener('pointermove',e=>{if(drag){const d=T(drag[0])-T(e.clientX);t0+=d;t1+=d;clamp();sy-=e.clientY-drag[1];drag=[e.clientX,e.clientY];say();soon();return}
const r=main.getBoundingClientRect(),x=e.clientX-r.left,y=e.clientY-r.top;let hit=null;for(const q of drawn)if(x>=q[0]&&x<=q[2]&&y>=q[1]&&y<=q[3])hit=q[4];
if(hit!==hot){hot=hit;soon()}
if(hit===null)say();else if(typeof hit==='string'){const s=S[+hit.slice(1)];say(s[3]+'\nat '+sec(s[1]),e)}
else if(hit<0)say((-1-hit)+' attempts: zoom in to see them apart',e);else{const b=B[hit];say(b[5]+'\n'+sec(b[1])+' to '+sec(b[2])+' ('+sec(b[2]-b[1])+')',e)}});
c.addEventListener('pointerleave',()=>{hot=null;say();soon()});
addEventListener('keydown',e=>{const d=(t1-t0)/5;if(e.key==='+')zoom(.6,(left+w)/2);else if(e.key==='-')zoom(1.67,(left+w)/2);else if(e.key==='0')fit();
else if(e.key==='ArrowLeft'){t0-=d;t1-=d;clamp();soon()}else if(e.key==='ArrowRight'){t0+=d;t1+=d;clamp();soon()}});
addEventListener('resize',size);matchMedia('(prefers-color-scheme:dark)').addEventListener('change',soon);fit();size();
